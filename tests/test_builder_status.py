"""Status reads files alone, at any moment of a run; retry-dead puts dead prompts back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from dataset_builder import command, metrics, retry
from dataset_builder.build import Build
from dataset_builder.ideas import make_prompts
from dataset_builder.report import status, view
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from pipeline.candidates.plan import read_plan
from pipeline.local import run_units
from pipeline.settings import PairSettings
from pipeline.shards import read_pairs
from tests.building import FAKES, IDEAS, build, fake_config, final_tables, with_candidates


def test_status_follows_a_run_from_its_first_file_to_its_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    builder = Build(config, run_units)
    builder._begin()
    assert "not yet" in status.describe(status.read_status(config.out))
    make_prompts(builder.run, config)
    builder._plan()
    plan = pa.concat_tables(read_plan(builder.run))
    assert "0 of 6 units, 6 remaining" in status.describe(status.read_status(config.out))
    units = run_units(plan, builder.spec)
    next(units), next(units)
    said = status.describe(status.read_status(config.out))
    assert "2 of 6 units, 4 remaining" in said and "The command that began the run continues it" in said
    build(config)
    assert status.main([config.out]) == 0
    said = capsys.readouterr().out
    assert "6 accepted of 6" in said and "6 of 6 units, 0 remaining" in said and "6 pairs in 1 shards" in said
    assert status.main([config.out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == {"planned": 6, "done": 6, "dead_prompts": 0}


def test_where_no_prompt_passed_the_next_step_is_another_one(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", ["a cosy kitchen"], until="prompts")
    outcome = build(config)
    assert "--filter.undecided" in status.next_command(status.read_status(config.out), config.out)
    assert outcome.accepted == 0


def test_a_run_without_a_pair_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = fake_config(tmp_path, tmp_path / "out", pairs=PairSettings(min_margin=1000.0))
    assert command.finish(config, build(config)) == 0
    assert "--pairs.min-margin" in capsys.readouterr().out
    assert status.main([config.out]) == 0
    assert "drspo view" in capsys.readouterr().out, "and is not told to run again"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for program in (status.main, retry.main):
        with pytest.raises(UserError, match="no run here"):
            program([str(tmp_path)])


@pytest.fixture
def with_a_dead_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in which one prompt found no working painter."""
    monkeypatch.setenv("FAKE_POISON", "castle")
    assert build(fake_config(tmp_path, tmp_path / "out")).dead == 1
    monkeypatch.delenv("FAKE_POISON")
    return tmp_path / "out"


def test_status_names_dead_prompts_and_their_reason(with_a_dead_prompt: Path) -> None:
    said = status.describe(status.read_status(str(with_a_dead_prompt)))
    assert "1 dead: only 0 of 4 candidates succeeded: Painter: RuntimeError: poisoned prompt" in said
    assert f"drspo retry-dead {with_a_dead_prompt}" in said


def test_retried_prompts_end_as_if_nothing_had_happened(
    with_a_dead_prompt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fake_config(tmp_path, with_a_dead_prompt)
    assert build(config).made_now == 0, "without a retry, dead prompts stay dead"
    assert retry.main([config.out, "--match", "another error"]) == 0
    assert "no dead prompts" in capsys.readouterr().out
    assert retry.main([config.out]) == 0
    assert "1 dead prompts are back" in capsys.readouterr().out
    outcome = build(config)
    assert (outcome.made_now, outcome.dead) == (1, 0)
    assert len(list(read_pairs(config.out))) == len(IDEAS)
    (tmp_path / "calm").mkdir()
    build(fake_config(tmp_path / "calm", tmp_path / "calm/out"))
    assert final_tables(config.out) == final_tables(tmp_path / "calm/out")
    assert status.read_status(config.out).dead == []


def test_a_retry_that_is_killed_half_way_loses_no_row(with_a_dead_prompt: Path, tmp_path: Path) -> None:
    config = fake_config(tmp_path, with_a_dead_prompt)
    # The unit is gone, its reason still stands: what a kill between the two leaves.
    (reason,) = (with_a_dead_prompt / "dead").iterdir()
    unit = json.loads(reason.read_text())["unit_id"]
    (with_a_dead_prompt / f"units/{unit[:2]}/{unit}.parquet").unlink()
    outcome = build(config)
    assert (outcome.made_now, outcome.dead) == (1, 0)
    assert status.read_status(config.out).dead == []


def test_retry_refuses_an_unknown_option(with_a_dead_prompt: Path) -> None:
    with pytest.raises(UserError, match="unknown option --all"):
        retry.main([str(with_a_dead_prompt), "--all"])


def test_units_made_meanwhile_are_not_counted_twice(tmp_path: Path) -> None:
    config = with_candidates(fake_config(tmp_path, tmp_path / "out"), prompts_per_unit=2)
    build(config)
    assert status.as_dict(status.read_status(config.out))["units"]["done"] == 3


def test_the_lines_of_a_long_run_are_thinned_and_its_newest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MOST_LINES", 50)
    monkeypatch.setattr(metrics, "RECENT_LINES", 20)
    kept = metrics.Metrics(Storage(tmp_path), 10_000, 0)
    for _ in range(400):
        kept.counts["done"] += 1
        kept.close()
    lines = (tmp_path / metrics.METRICS_NAME).read_text().splitlines()
    done = [json.loads(line)["done"] for line in lines]
    assert len(done) <= 50 and done == sorted(done) and done[0] == 1
    assert done[-20:] == list(range(381, 401))


@pytest.mark.parametrize("other_prompts", [False, True])
def test_a_run_whose_prompts_all_died_takes_mended_settings_after_a_retry(
    tmp_path: Path, other_prompts: bool
) -> None:
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:3])
    mistyped = with_candidates(config, f"{FAKES}:Painter.poison=a", f"{FAKES}:Sketcher.poison=a")
    if other_prompts:
        mistyped = replace(mistyped, filter=replace(mistyped.filter, undecided="keep", accept=2))
    build(mistyped)
    view.write(config.out)
    with pytest.raises(UserError, match="written by another configuration"):
        build(config)
    assert retry.main([config.out]) == 0
    assert build(config).dead == 0
    assert not RunDir(config.out).list("gallery/") and not RunDir(config.out).list("dead/")
    build(calm := replace(config, out=str(tmp_path / "calm")))
    assert final_tables(config.out) == final_tables(calm.out)


def test_what_an_ending_said_of_a_run_that_was_mended_is_no_longer_said(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:3])
    build(mistyped := with_candidates(config, f"{FAKES}:Painter.poison=a", f"{FAKES}:Sketcher.poison=a"))
    retry.main([mistyped.out])
    Build(config, run_units)._begin()
    assert list(RunDir(config.out).phases()) == ["prompts"]
    assert "export     not yet" in status.describe(status.read_status(config.out))
