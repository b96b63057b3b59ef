"""`drspo score` adds scorers to a finished run: the numbers of build time, resumable, and pairs by any."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from dataset_builder import command, retry
from dataset_builder import score as scoring
from dataset_builder.report.card import card_files
from dataset_builder.report.status import read_status
from dataset_builder.score import main
from drspo import consent
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from pipeline.pairs import heaps
from pipeline.pairs.columns import column_names, read_about, write_scores
from pipeline.settings import PairSettings, ScoringSettings
from pipeline.shards import read_pairs
from pipeline.spill import Spill
from tests.building import ALLOW, FAKES, IDEAS, build, fake_config, final_tables, scores_of

WRONG = "tests.plugin_wrong"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    build(fake_config(tmp_path, tmp_path / "out"))
    return tmp_path / "out"


def score(run: Path | str, *scorers: str, options: tuple[str, ...] = ()) -> int:
    consent.allow(FAKES, WRONG)
    flags = ["--scoring.options", *options] if options else []
    return main([str(run), "--scoring.scorers", *scorers, *flags])


def built(run: Path | str, scorer: str) -> dict[str, float]:
    """{candidate: score} as the builder stored it."""
    table = pl.read_parquet(Storage(run).read("scores.parquet"))
    return dict(zip(table["candidate_id"], table["scores"].struct.field(scorer), strict=True))


def added(run: Path | str, name: str) -> dict[str, float]:
    rows = scores_of(run, name)
    return dict(zip(rows["candidate_id"], rows["score"], strict=True))


@pytest.mark.parametrize("place", ["folder", "memory://scored-run"])
def test_a_score_that_is_added_is_the_score_of_build_time(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / place) if place == "folder" else place
    build(fake_config(tmp_path, out))
    assert (
        score(out, f"again={FAKES}:Brightness", f"green={FAKES}:Brightness", options=("green.channel=1",))
        == 0
    )
    assert added(out, "again") == built(out, "Brightness")
    assert added(out, "green") != built(out, "Brightness") and len(added(out, "green")) == len(IDEAS) * 4
    assert read_about(Storage(out), "green").options == ("green.channel=1",)
    assert "again        24 of 24 images" in capsys.readouterr().out
    assert read_status(out).added == {"again": 24, "green": 24}
    assert Storage(out).list("attempts/") == []


def test_a_scorer_that_edits_its_pictures_changes_no_other_score(tmp_path: Path, run: Path) -> None:
    (tmp_path / "edited").mkdir()
    consent.allow(WRONG)
    first = ScoringSettings(scorers=(f"{WRONG}:Shrinks", f"{FAKES}:Brightness", f"again={WRONG}:Shrinks"))
    build(replace(fake_config(tmp_path / "edited", tmp_path / "edited/out"), scoring=first))
    edited = tmp_path / "edited/out"
    assert built(edited, "Brightness") == built(run, "Brightness")
    assert score(run, f"{WRONG}:Shrinks") == 0
    assert added(run, "Shrinks") == built(edited, "Shrinks") == built(edited, "again")
    assert added(run, "Shrinks") != built(run, "Brightness")


@pytest.mark.parametrize("how", ["half a character", "half a reason", "a cancellation"])
def test_no_failure_of_an_added_scorer_ends_the_command(run: Path, how: str) -> None:
    assert score(run, f"{WRONG}:WrongScorer", options=(f"{WRONG}:WrongScorer.how={how}",)) == 0
    rows = scores_of(run, "WrongScorer")
    assert rows["score"].null_count() == 4 and rows["error"].str.contains("WrongScorer: ").sum() == 4


def test_real_judges_of_the_miniature_give_their_very_numbers(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:2])
    config = replace(config, candidates=replace(config.candidates, model="miniature", height=64, width=256))
    scoring = replace(config.scoring, scorers=(*config.scoring.scorers, "near=pickscore"))
    build(replace(config, scoring=scoring))
    score(tmp_path / "out", "pickscore", "hps_v2")
    assert added(tmp_path / "out", "pickscore") == built(tmp_path / "out", "near")


def test_the_same_command_again_makes_nothing_and_a_kill_loses_only_what_was_in_flight(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = scoring.Judges.score

    def judged(self: Any, images: list[bytes], prompt: str) -> list[dict[str, float]]:
        seen.append(len(images))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(self, images, prompt)

    monkeypatch.setattr(scoring.Judges, "score", judged)
    monkeypatch.setattr(scoring, "INTERVAL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        score(run, f"again={FAKES}:Brightness")
    assert len(added(run, "again")) == 3 * 4
    seen.clear()
    seen.extend([0] * 10)  # no further interruption
    score(run, f"again={FAKES}:Brightness")
    assert len(seen) == 10 + len(IDEAS) - 3
    assert added(run, "again") == built(run, "Brightness")
    score(run, f"again={FAKES}:Brightness")
    assert len(seen) == 10 + len(IDEAS) - 3


def test_what_is_missing_is_found_a_few_rows_at_a_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of millions is never in memory: images and numbers meet on disk, some at a time."""
    monkeypatch.setattr(heaps, "ROWS_PER_PART", 3)
    monkeypatch.setattr(heaps, "_WAITING", 1)
    monkeypatch.setattr(Spill.__init__, "__defaults__", (2,))
    seen: list[int] = []
    real = scoring.Judges.score
    monkeypatch.setattr(scoring.Judges, "score", lambda self, *of: seen.append(len(of[0])) or real(self, *of))
    score(run, f"again={FAKES}:Brightness")
    assert added(run, "again") == built(run, "Brightness") and len(seen) == len(IDEAS)
    some = [row for row in scores_of(run, "again").to_dicts() if row["candidate_id"] < "8"]
    for name in Storage(run).list("scores/again/"):
        if name.endswith(".parquet"):
            Storage(run).delete(name)
    write_scores(Storage(run), "again", [scoring.Score(**row) for row in some])
    assert read_status(str(run)).added == {"again": len(some)}
    seen.clear()
    score(run, f"again={FAKES}:Brightness", f"more={FAKES}:Contrast")
    assert added(run, "again") == built(run, "Brightness")
    assert added(run, "more") == built(run, "Contrast")
    lacking = {c for c in built(run, "Contrast") if c not in {row["candidate_id"] for row in some}}
    table = pl.read_parquet(run / "scores.parquet").filter(pl.col("candidate_id").is_in(lacking))
    assert len(seen) == len(IDEAS) + table["unit_id"].n_unique()
    assert read_status(str(run)).added == {"again": 24, "more": 24}


def test_after_a_process_was_killed_outright_the_run_takes_scores_as_before(
    run: Path, repository: Path
) -> None:
    command = [sys.executable, "-m", "drspo", "score", str(run), "--allow-plugins", FAKES]
    command += ["--scoring.scorers", f"again={FAKES}:Brightness", "--scoring.options", "again.how=killed"]
    poison = [*command, "again.poison=castle"]
    first = subprocess.run(poison, cwd=repository, capture_output=True, text=True)
    assert first.returncode == -9 and "again" in column_names(Storage(run))
    # Other settings under the same name are another column.
    with pytest.raises(UserError, match="Give these a name of their own"):
        score(run, f"again={FAKES}:Brightness")
    score(run, f"sound={FAKES}:Brightness")
    assert added(run, "sound") == built(run, "Brightness")


def test_a_prompt_that_crashes_the_scorer_is_set_aside_with_the_reason_until_it_is_retried(
    run: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "drspo", "score", str(run), "--allow-plugins", FAKES]
    command += ["--scoring.scorers", f"again={FAKES}:Brightness"]
    command += ["--scoring.options", "again.how=segfault", "again.poison=castle"]
    codes = [subprocess.run(command, cwd=repository, capture_output=True).returncode for _ in range(3)]
    assert codes == [-11, -11, 0]
    rows = scores_of(run, "again")
    lost = rows.filter(pl.col("score").is_null())
    assert lost.height == 4 and all("took 2 workers down: Segmentation fault" in e for e in lost["error"])
    assert subprocess.run(command, cwd=repository, capture_output=True).returncode == 0, "still set aside"
    assert retry.requeue_columns(str(run), "another cause") == 0
    assert retry.main([str(run)]) == 0
    assert "1 prompts took an added scorer down" in capsys.readouterr().out
    assert Storage(run).list("attempts/") == [] and retry.requeue_columns(str(run)) == 0
    assert subprocess.run(command, cwd=repository, capture_output=True).returncode == -11, "tried again"


@pytest.mark.parametrize(("how", "reason"), [("inf", "infinite"), ("none", "gave None"), ("too few", "gave")])
def test_an_image_without_a_score_has_the_reason_and_is_not_paired_by_it(
    run: Path, tmp_path: Path, how: str, reason: str
) -> None:
    score(run, f"odd={WRONG}:WrongScorer", options=(f"odd.how={how}",))
    rows = scores_of(run, "odd")
    lost = rows.filter(pl.col("score").is_null())
    assert rows.height == 24 and lost.height == 4
    assert all(error.startswith("odd: ") and reason in error for error in lost["error"])
    build(fake_config(tmp_path, run, pairs=PairSettings(weights=("odd=1",))))
    pairs = list(read_pairs(str(run)))
    assert len(pairs) == len(IDEAS) - 1 and not any("castle" in pair["prompt"] for pair in pairs)
    build(fake_config(tmp_path, run))
    scores = [pair["chosen_scores"]["odd"] for pair in read_pairs(str(run))]
    assert scores.count(None) == 1 and len(scores) == len(IDEAS)


def test_pairs_go_by_any_added_score_and_back_without_a_new_image(run: Path, tmp_path: Path) -> None:
    before, made = final_tables(run), (tmp_path / "made.log").read_text()
    score(run, f"green={FAKES}:Brightness", options=("green.channel=1",))
    outcome = build(
        fake_config(tmp_path, run, pairs=PairSettings(weights=("green=-1",), validation_fraction=0.0))
    )
    assert outcome.made_now == 0 and (tmp_path / "made.log").read_text() == made
    green = added(run, "green")
    for pair in read_pairs(str(run)):
        group = [value for key, value in green.items() if key in candidates_of(run, pair["prompt_id"])]
        assert pair["chosen_scores"]["green"] == min(group) and pair["rejected_scores"]["green"] == max(group)
        assert set(pair["chosen_scores"]) == {"Brightness", "Contrast", "green"}
    # Without the column everything is as it was.
    for name in Storage(run).list("scores/"):
        Storage(run).delete(name)
    build(fake_config(tmp_path, run))
    assert final_tables(run) == before


def candidates_of(run: Path, prompt: str) -> set[str]:
    table = pl.read_parquet(run / "scores.parquet")
    return set(table.filter(pl.col("prompt_id") == prompt)["candidate_id"])


def test_the_printed_command_goes_to_the_end_where_the_last_start_made_prompts_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(fake_config(tmp_path, run, until="prompts"))
    score(run, f"again={FAKES}:Contrast")
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next"))
    assert said.endswith(f"--config {run}/config.yaml --until shards --pairs.weights again=1")
    argv = shlex.split(said.partition("dataset_builder")[2])
    assert command.main([*argv, *ALLOW]) == 0
    assert RunDir(run).phases()["export"]["settings"]["pairs"]["weights"] == ["again=1"]
    score(run, f"again={FAKES}:Contrast")
    assert "--until" not in capsys.readouterr().out


def test_a_published_configuration_of_a_run_begun_for_its_prompts_goes_to_the_end(tmp_path: Path) -> None:
    build(fake_config(tmp_path, tmp_path / "out", until="prompts"))
    build(fake_config(tmp_path, tmp_path / "out"))
    files = card_files(RunDir(tmp_path / "out"), "a/b", "cc-by-4.0")
    assert yaml.safe_load(files["config.yaml"])["until"] == "shards"


def test_a_column_that_lacks_images_is_not_paired_by_and_said(run: Path, tmp_path: Path) -> None:
    score(run, f"green={FAKES}:Brightness")
    storage = Storage(run)
    (part,) = [name for name in storage.list("scores/green/") if name.endswith(".parquet")]
    rows = scores_of(storage.base, "green")
    storage.delete(part)
    write_scores(storage, "green", [scoring.Score(**row) for row in rows.head(20).to_dicts()])
    with pytest.raises(
        UserError, match=r"4 of 24 images have not been scored by 'green' yet(.|\n)*drspo score"
    ):
        build(fake_config(tmp_path, run, pairs=PairSettings(weights=("green=1",))))
    build(fake_config(tmp_path, run))
    assert set(next(read_pairs(str(run)))["chosen_scores"]) == {"Brightness", "Contrast"}
    score(run, f"green={FAKES}:Brightness")
    assert build(fake_config(tmp_path, run, pairs=PairSettings(weights=("green=1",)))).pairs


def test_shares_of_several_processes_make_the_whole_once(run: Path) -> None:
    consent.allow(FAKES)
    for share in ("1/3", "2/3", "3/3"):
        main([str(run), "--scoring.scorers", f"again={FAKES}:Brightness", "--share", share])
        assert read_status(str(run)).added == {"again": 8 * int(share[0])}
    assert added(run, "again") == built(run, "Brightness")
    assert len([name for name in Storage(run).list("scores/again/") if name.endswith(".parquet")]) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which run"),
        (["RUN"], "which run, and which scorers"),
        (["RUN", "--scoring.scorers", f"{FAKES}:Brightness"], "has scores called 'Brightness' already"),
        (["RUN", "--scoring.scorers", "hps"], "hps_v2"),
        (["RUN", "--scoring.scorers", "clip", "--scoring.options", "clap.view=1"], "does not use"),
        (["RUN", "--scoring.scorers", "clip", "--share", "3/2"], "no share"),
        (["RUN/nothing", "--scoring.scorers", "clip"], "no run here"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(run: Path, argv: list[str], message: str) -> None:
    consent.allow(FAKES)
    with pytest.raises(UserError, match=message):
        main([word.replace("RUN", str(run)) for word in argv])
    assert not (run / "scores").exists()


def test_a_run_without_scores_and_a_damaged_column_are_named(run: Path) -> None:
    score(run, f"green={FAKES}:Brightness")
    (part,) = (run / "scores/green").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"scores cannot be read(.|\n)*{part.name}"):
        score(run, f"green={FAKES}:Brightness")
    (run / "scores.parquet").unlink()
    with pytest.raises(UserError, match="not finished"):
        score(run, f"blue={FAKES}:Brightness")


def test_the_card_and_the_published_configuration_name_added_scorers(run: Path, tmp_path: Path) -> None:
    score(run, f"green={FAKES}:Brightness", options=("green.channel=1",))
    build(fake_config(tmp_path, run, pairs=PairSettings(weights=("green=1", "Contrast=1"), method="pareto")))
    files = card_files(RunDir(run), "me/scrolls", "cc-by-4.0")
    config = yaml.safe_load(files["config.yaml"])
    assert config["scoring"]["scorers"][-1] == f"green={FAKES}:Brightness"
    assert config["scoring"]["options"] == ["green.channel=1"]
    card = files["README.md"].decode()
    assert "green (`none@0 view=whole`)" in card and "assets/green.svg" in card
    assert ScoringSettings(scorers=tuple(config["scoring"]["scorers"])).columns[-1] == "green"
    assert os.environ.get("FAKE_LOG") is None
