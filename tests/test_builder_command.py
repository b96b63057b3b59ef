"""The program: what it makes, what it refuses, how it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_builder.build import Build, Outcome
from dataset_builder.command import finish, main
from dataset_builder.config import BuildConfig, run_hash, units_hash
from drspo.config import dump, load
from drspo.errors import UserError
from pipeline.candidates.images import decode
from pipeline.candidates.provenance import read_models
from pipeline.local import run_units
from pipeline.pairs.scores import read_facts
from pipeline.records import candidate_seed
from pipeline.settings import CandidateSettings, PairSettings, ScoringSettings
from pipeline.shards import read_pairs
from tests.building import FAKES, IDEAS, build, fake_config, final_tables, with_candidates


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    build(fake_config(folder, folder / "out"))
    return folder / "out"


def test_each_prompt_gets_every_generator_with_every_seed(run: Path) -> None:
    config = fake_config(run.parent, run)
    store = Build(config, run_units).store
    table = read_facts(store, sorted(store.done()))
    assert table.height == len(IDEAS) * 2 * 2 and table["scored"].all()
    for row in table.iter_rows(named=True):
        expected = {candidate_seed(row["prompt_id"], row["generator"], index) for index in range(2)}
        assert row["seed"] in expected
        assert (row["height"], row["width"]) == (32, 64)
    for _, group in table.group_by("prompt_id"):
        ordered = group.sort("rank")["scores"].struct.field("Brightness").to_list()
        assert ordered == sorted(ordered, reverse=True)


def test_scores_are_those_of_the_stored_bytes(run: Path) -> None:
    from pipeline.candidates.images import decode
    from tests.plugin_fakes import Brightness

    for pair in read_pairs(str(run)):
        for side in ("chosen", "rejected"):
            image = decode(pair[side]["bytes"])
            assert pair[f"{side}_scores"]["Brightness"] == Brightness().score([image], [""])[0]
        assert pair["margin"] == pair["chosen_score"] - pair["rejected_score"] > 0


def test_the_best_and_the_worst_of_each_prompt_are_paired(run: Path) -> None:
    pairs = list(read_pairs(str(run)))
    assert sorted(pair["prompt"] for pair in pairs) == sorted(IDEAS)
    copies = list(read_pairs(str(run), columns=["jpg_0", "jpg_1"]))
    for pair, copy in zip(pairs, copies, strict=True):
        assert pair["caption"] == pair["prompt"] and "jpg_0" not in pair
        best, worst = ("jpg_0", "jpg_1") if pair["label_0"] == 1 else ("jpg_1", "jpg_0")
        assert (copy[best], copy[worst]) == (pair["chosen"]["bytes"], pair["rejected"]["bytes"])
        assert pair["best_image_uid"] == pair["chosen_id"]


def test_the_same_command_again_makes_nothing_and_changes_nothing(run: Path) -> None:
    before, made = final_tables(run), (run.parent / "made.log").read_text()
    assert build(fake_config(run.parent, run)).made_now == 0
    assert final_tables(run) == before
    assert (run.parent / "made.log").read_text() == made


def test_another_pairing_is_exported_anew_without_new_images(run: Path, tmp_path: Path) -> None:
    made = (run.parent / "made.log").read_text()
    more = build(fake_config(run.parent, run, pairs=PairSettings(method="all", validation_fraction=0.5)))
    assert sum(more.pairs.values()) == len(IDEAS) * 6 and set(more.pairs) == {"train", "validation"}
    back = build(fake_config(run.parent, run))
    assert back.pairs == {"train": len(IDEAS)}
    assert sorted(path.name for path in (run / "export/data").iterdir()) == ["train-00000-of-00001.parquet"]
    assert (run.parent / "made.log").read_text() == made


def test_a_folder_of_another_configuration_is_refused_with_the_difference(run: Path) -> None:
    other = with_candidates(fake_config(run.parent, run), seeds=3)
    with pytest.raises(UserError, match=r"candidates\.seeds: 2 there, 3 asked now"):
        build(other)


def test_speed_settings_do_not_make_another_run() -> None:
    one = BuildConfig(out="a")
    two = replace(one, out="b", executor="ray", guard=replace(one.guard, deadline=1.0))
    assert run_hash(one) == run_hash(two)
    assert units_hash(one) != units_hash(with_candidates(one, steps=3))


@pytest.mark.parametrize("preset", ["miniature", "sdxl", "paper"])
def test_presets_load_and_print_themselves(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config", preset, "--out", "x", "--print-config"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    config = load(BuildConfig, ["--config", preset, "--out", "x"], package="dataset_builder", prog="p")
    assert printed == dump(config)
    assert config.candidates.generators == ("multidiffusion", "sdxl", "mad") and config.candidates.seeds == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": ""}, "which folder"),
        ({"scoring": ScoringSettings(scorers=())}, "at least one"),
        ({"candidates": CandidateSettings(seeds=0)}, "from 1 up to"),
        (
            {"candidates": CandidateSettings(options=("mda.threshold=1",))},
            "'mda', which this run does not use",
        ),
        ({"candidates": CandidateSettings(options=("threshold",))}, "does not use|not name.key=value"),
        ({"candidates": CandidateSettings(generators=("mad", "mad"))}, "used twice"),
        ({"pairs": PairSettings(weights=("hps=1",))}, "does not score"),
        ({"scoring": ScoringSettings(scorers=("clip", "clip"))}, "a name is used twice: clip"),
        ({"scoring": ScoringSettings(scorers=("a b=clip",))}, "'a b=clip' does not name a scorer"),
        ({"scoring": ScoringSettings(scorers=("near=",))}, "'near=' does not name a scorer"),
        (
            {"scoring": ScoringSettings(scorers=("near=clip",), options=("clip.view=official",))},
            "'clip', which this run does not use",
        ),
    ],
)
def test_senseless_configurations_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(replace(fake_config(tmp_path, tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_one_failing_candidate_costs_only_itself(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    config = with_candidates(config, "tests.plugin_fakes:Sketcher.poison=castle")
    outcome = build(config)
    assert outcome.dead == 0 and sum(outcome.pairs.values()) == len(IDEAS)
    scores = pq.read_table(tmp_path / "out/scores.parquet").to_pylist()
    failed = [row for row in scores if row["error"]]
    assert len(failed) == 2 and {row["error"] for row in failed} == {"RuntimeError: poisoned prompt"}
    assert finish(config, outcome) == 0


@pytest.mark.parametrize("how", ["raise", "memory"])
def test_a_prompt_that_fails_everywhere_is_one_dead_row_and_exit_code_3(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    names = [f"tests.plugin_fakes:{name}" for name in ("Painter", "Sketcher")]
    poison = [f"{name}.{key}" for name in names for key in ("poison=castle", f"how={how}")]
    config = with_candidates(config, *poison)
    outcome = build(config)
    assert (outcome.dead, sum(outcome.pairs.values())) == (1, len(IDEAS) - 1)
    assert finish(config, outcome) == 3
    assert "1 prompts are dead (16.7%)" in capsys.readouterr().err
    assert finish(replace(config, dead_threshold=0.5), outcome) == 0


def test_a_setup_in_which_nothing_works_stops_soon_with_the_reason(tmp_path: Path) -> None:
    ideas = [f"a hill number {word}" for word in "one two three four five six seven eight".split()]
    config = fake_config(tmp_path, tmp_path / "out", ideas)
    names = [f"tests.plugin_fakes:{name}" for name in ("Painter", "Sketcher")]
    with pytest.raises(UserError, match="none of the first prompts.*poisoned prompt"):
        build(with_candidates(config, *(f"{name}.poison=hill" for name in names)))
    assert len(list((tmp_path / "out/units").rglob("*.parquet"))) == 5


def test_a_scorer_that_fails_on_a_prompt_kills_that_prompt_alone(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    scoring = replace(config.scoring, options=("tests.plugin_fakes:Contrast.poison=castle",))
    outcome = build(replace(config, scoring=scoring))
    assert (outcome.dead, sum(outcome.pairs.values())) == (1, len(IDEAS) - 1)


def test_one_scorer_may_look_twice_and_either_look_may_pair(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    scorers = (f"{FAKES}:Brightness", f"blue={FAKES}:Brightness")
    config = replace(config, scoring=ScoringSettings(scorers=scorers, options=("blue.channel=2",)))
    red_pairs = build(config).pairs
    pixels = {}
    for unit in (tmp_path / "out/units").rglob("*.parquet"):
        for candidate in pq.read_table(unit).to_pylist()[0]["candidates"]:
            pixels[candidate["candidate_id"]] = np.asarray(decode(candidate["image"]["bytes"]))
            means = pixels[candidate["candidate_id"]].mean((0, 1))
            assert candidate["scores"] == pytest.approx({"Brightness": means[0], "blue": means[2]})
    assert build(replace(config, pairs=PairSettings(weights=("blue=1",)))).pairs == red_pairs
    for pair in read_pairs(str(tmp_path / "out")):
        chosen, rejected = (pixels[pair[f"{side}_id"]][..., 2].mean() for side in ("chosen", "rejected"))
        assert chosen > rejected and pair["margin"] == pytest.approx(chosen - rejected)


def test_units_of_several_prompts_give_the_same_pairs(run: Path, tmp_path: Path) -> None:
    config = with_candidates(fake_config(tmp_path, tmp_path / "out"), prompts_per_unit=4)
    build(config)
    assert len(list((tmp_path / "out/units").rglob("*.parquet"))) == 2

    def facts(out: Path) -> list:
        return sorted((p["prompt_id"], p["chosen_score"], p["rejected_score"]) for p in read_pairs(str(out)))

    assert facts(tmp_path / "out") == facts(run)


def test_the_weights_behind_the_images_are_recorded_and_a_mixture_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_candidates(fake_config(tmp_path, tmp_path / "out"), model="me/base")
    store = Build(config, run_units).run
    for mark in ("0123456789ab", "ba9876543210"):
        family = SimpleNamespace(model_id="me/base", fingerprint=mark, commit="0" * 40, device="cpu")
        monkeypatch.setattr(
            "pipeline.candidates.actors._load_family", lambda model, options, family=family: family
        )
        assert "different weights" not in caplog.text
        build(config)
        next((tmp_path / "out/units").rglob("*.parquet")).unlink()
    assert [one["weights"] for one in read_models(store)] == ["0123456789ab", "ba9876543210"]
    assert {one["revision"] for one in read_models(store)} == {"0" * 40}
    assert "images of this run were made by different weights" in caplog.text


@pytest.mark.parametrize("model", ["miniature", "someone/a-model", ""])
def test_a_build_ends_with_the_next_command_and_the_trainer_takes_it(
    tmp_path: Path, capsys, model: str
) -> None:
    import shlex

    from train.command import main as train

    config = BuildConfig(out=str(tmp_path / "my pairs"), candidates=CandidateSettings(model=model))
    assert finish(config, Outcome(pairs={"train": 3})) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next"))
    words = shlex.split(line)[1:]
    assert words[:3] == ["python", "-m", "train"] and config.out in words
    with pytest.raises(SystemExit) as ended:
        train([*words[3:], "--print-config"])
    assert ended.value.code == 0
    finish(config, Outcome())
    assert "-m train" not in capsys.readouterr().out, "nothing to train on"
