"""`drspo compact`: every command reads a compacted run as it was, and its tables are the same to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder import compact, retry
from dataset_builder.build import Build
from dataset_builder.config import BuildConfig
from dataset_builder.hub.tree import collect
from dataset_builder.report import status, view
from dataset_builder.score import main as score
from dataset_builder.votes.contest import open_contest
from drspo.cli import execute
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from pipeline import packs
from pipeline.local import run_units
from pipeline.settings import PairSettings
from tests.building import FAKES, build, fake_config, final_tables, neighbours, scores_of


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MOST_UNITS", 3)


def units(out: str) -> list[str]:
    return [name.removeprefix("units/") for name in Storage(out).list("units/")]


def exported_anew(config: BuildConfig) -> dict[str, str]:
    """The tables that a run gives whose export is gone."""
    shutil.rmtree(Path(config.out) / "export")
    assert build(config).made_now == 0
    return final_tables(config.out)


def test_a_compacted_run_gives_the_same_tables_and_doing_it_again_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = neighbours(tmp_path, tmp_path / "out")
    build(config)
    before, last = final_tables(config.out), sorted(units(config.out))[-1]
    assert compact.main([config.out]) == 0
    assert "packed     6 unit files into 2 packs" in capsys.readouterr().out
    assert units(config.out) == ["00/pack-000001.parquet", last, "ab/pack-000001.parquet"]
    assert exported_anew(config) == before
    assert compact.main([config.out]) == 0
    assert "packed     nothing" in capsys.readouterr().out
    assert not (tmp_path / "out/quarantine").exists()


def test_commands_read_a_compacted_run_as_it_was(tmp_path: Path) -> None:
    config = neighbours(tmp_path, tmp_path / "out")
    build(config)

    def read() -> dict[str, Any]:
        contest = open_contest(config.out)
        view.write(config.out, str(tmp_path / "page.html"))
        return {
            "status": status.as_dict(status.read_status(config.out)),
            "pictures": {name: contest.picture(name) for name in contest.scrolls},
            "page": (tmp_path / "page.html").read_bytes(),
            "publication": collect(config.out, "me/pairs", "cc0-1.0").small,
        }

    before = read()
    compact.main([config.out])
    assert read() == before
    assert score([config.out, "--scoring.scorers", f"again={FAKES}:Brightness"]) == 0
    assert scores_of(config.out, "again")["score"].count() == 28


def test_a_run_in_blocks_is_compacted_while_it_runs(tmp_path: Path) -> None:
    calm = neighbours(tmp_path / "calm", tmp_path / "calm/out")
    build(calm)
    config = neighbours(tmp_path / "busy", tmp_path / "busy/out", block=2)

    def beside(work: Any, spec: Any) -> Iterator[dict[str, Any]]:
        for unit in run_units(work, spec):
            compact.compact(RunDir(config.out))
            yield unit

    assert Build(config, beside)().made_now == 7
    assert "00/pack-000001.parquet" in units(config.out)
    assert final_tables(config.out) == final_tables(calm.out)
    assert exported_anew(config) == final_tables(calm.out)


def test_a_build_killed_half_way_and_compacted_makes_what_is_missing(tmp_path: Path) -> None:
    config = neighbours(tmp_path, tmp_path / "out")

    def killed(work: Any, spec: Any) -> Iterator[dict[str, Any]]:
        for number, unit in enumerate(run_units(work, spec)):
            if number == 5:
                raise KeyboardInterrupt
            yield unit

    with pytest.raises(KeyboardInterrupt):
        Build(config, killed)()
    assert compact.compact(RunDir(config.out)).files >= 2
    assert build(config).made_now == 1
    build(neighbours(tmp_path / "calm", tmp_path / "calm/out"))
    assert final_tables(config.out) == final_tables(tmp_path / "calm/out")


def rot(pack: Path) -> None:
    """Flip a bit of one picture."""
    data = bytearray(pack.read_bytes())
    data[data.index(b"RIFF") + 50] ^= 1
    pack.write_bytes(data)


def cut(pack: Path) -> None:
    pack.write_bytes(pack.read_bytes()[:-40])


@pytest.mark.parametrize(("damage", "made"), [(rot, 1), (cut, 3)])
def test_of_a_damaged_pack_what_is_lost_is_made_again(tmp_path: Path, damage: Any, made: int) -> None:
    config = neighbours(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(config.out)
    compact.main([config.out])
    damage(tmp_path / "out/units/ab/pack-000001.parquet")
    shutil.rmtree(tmp_path / "out/export")
    assert build(config).made_now == made
    assert final_tables(config.out) == before
    (moved,) = (tmp_path / "out/quarantine").iterdir()
    assert moved.name.startswith("units_ab_pack-000001.parquet.")
    compact.main([config.out])
    assert "ab/pack-000002.parquet" in units(config.out)
    assert exported_anew(config) == before


def test_dead_prompts_of_a_compacted_run_are_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = neighbours(tmp_path, tmp_path / "out")
    victim = Path(config.prompts.source).read_text().splitlines()[0]
    monkeypatch.setenv("FAKE_POISON", f"{victim[-6:]}")
    assert build(config).dead == 1
    monkeypatch.delenv("FAKE_POISON")
    compact.main([config.out])
    assert "kept       1 file with dead prompts" in capsys.readouterr().out
    assert retry.main([config.out]) == 0
    assert build(config).made_now == 1
    build(neighbours(tmp_path / "calm", tmp_path / "calm/out"))
    assert final_tables(config.out) == final_tables(tmp_path / "calm/out")


def test_a_unit_of_a_pack_that_a_new_plan_lacks_is_let_lie(tmp_path: Path) -> None:
    config = neighbours(tmp_path, tmp_path / "out")
    build(config)
    compact.main([config.out])
    plan = pq.read_table(tmp_path / "out/plan.parquet")
    first = units(config.out)
    shutil.rmtree(tmp_path / "out/export")
    pq.write_table(pa.concat_tables([plan.slice(1)]), tmp_path / "out/plan.parquet")
    outcome = build(config)
    assert (outcome.made_now, sum(outcome.pairs.values())) == (0, 6)
    assert units(config.out) == first and status.read_status(config.out).done == 6


def test_a_run_behind_a_url_is_compacted_and_an_added_score_can_be_voted_on(tmp_path: Path) -> None:
    config = neighbours(tmp_path, "memory://compacted/run")
    build(config)
    assert execute(compact.main, [config.out]) == 0
    score([config.out, "--scoring.scorers", f"again={FAKES}:Contrast"])
    assert build(replace(config, pairs=PairSettings(weights=("again=1",)))).made_now == 0
    assert len(units(config.out)) == 3
    contest = open_contest(config.out)
    assert len(contest.scrolls) == 28 and contest.picture(next(iter(contest.scrolls)))


@pytest.mark.parametrize(
    ("argv", "said"),
    [([], "which run?"), (["a", "b"], "which run?"), (["--all"], "which run?"), (["{}"], "no run here")],
)
def test_what_is_no_run_is_refused(
    tmp_path: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(compact.main, [each.format(tmp_path) for each in argv]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_run_without_a_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    Build(config, run_units)._begin()
    assert execute(compact.main, [config.out]) == 2
    assert "this run has no plan yet" in capsys.readouterr().err
