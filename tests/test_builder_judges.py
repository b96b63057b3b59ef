"""Who judged a data set's pairs, as its card says it."""

import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_builder.report.card import card_files
from dataset_builder.report.judges import _dispute, _sign, who_judged
from drspo import consent
from drspo.files.run import RunDir
from eval.base import Missing
from pipeline.settings import PairSettings, ScoringSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, build, fake_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    settings = PairSettings(method="all", weights=("Brightness=1", "Contrast=-0.5"))
    build(fake_config(folder, folder / "out", IDEAS[:4], pairs=settings))
    return RunDir(folder / "out")


def shards(run):
    return [name for name in run.list("export/data/") if name.endswith(".parquet")]


def settings(run):
    return run.manifest()["config"]


def test_each_judge_is_shown_with_its_weight_and_how_often_it_prefers_the_chosen(run):
    judges, _ = who_judged(run, shards(run), settings(run))
    pairs = list(read_pairs(run.base, "train"))
    assert [(judge.name, judge.weight) for judge in judges] == [("Brightness", 1.0), ("Contrast", -0.5)]
    for judge, sign in zip(judges, (1, -1), strict=True):
        rises = [
            sign * (dict(pair["chosen_scores"])[judge.name] - dict(pair["rejected_scores"])[judge.name])
            for pair in pairs
        ]
        assert judge.better == pytest.approx(np.mean(np.array(rises) > 0))
        assert judge.better + judge.equal + judge.worse == pytest.approx(1)
    assert judges[0].better > 0.5


def test_the_card_says_who_judged_and_that_no_count_was_taken(run):
    files = card_files(run, "me/x", "mit")
    card = files["README.md"].decode()
    assert "| Brightness | 1 |" in card and "| Contrast | -0.5 |" in card
    assert "No count of objects was taken" in card
    assert ("assets/disputed.webp" in files) == ("disagree most" in card)


def test_the_disputed_pair_is_the_one_with_the_strongest_judges_on_either_side():
    places = [("a", 0, 0), ("a", 0, 1), ("a", 0, 2)]
    scores = np.arange(12.0).reshape(3, 2, 2)
    directed = np.array([[1.0, 0.9], [1.0, -1.0], [3.0, -0.1]])
    found = _dispute(directed, places, scores, ("one", "two"))
    assert found.place == ("a", 0, 1) and found.scores == {"one": (4.0, 5.0), "two": (6.0, 7.0)}
    assert _dispute(np.abs(directed), places, scores, ("one", "two")) is None


def test_a_count_is_better_when_it_is_lower_and_a_plugin_goes_by_its_weight():
    assert _sign("surplus", 0.0) == _sign("repeated_objects", 1.0) == -1.0
    assert _sign("aesthetic", -1.0) == 1.0 and _sign("mine:Judge", -1.0) == -1.0


def test_the_disputed_pair_is_shown_with_the_scores_of_all(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:3], pairs=PairSettings(method="all"))
    build(config)
    run = RunDir(tmp_path / "out")
    _, dispute = who_judged(run, shards(run), settings(run))
    files = card_files(run, "me/x", "mit")
    card = files["README.md"].decode()
    assert Image.open(io.BytesIO(files["assets/disputed.webp"])).size == (64, 72)
    for name, (one, other) in dispute.scores.items():
        assert f"{name} {one:.3f} against {other:.3f}" in card


class Mute:
    """A scorer that gives every second number, and says why it has none for the others."""

    name, unit, higher_is_better, view, checkpoint, checkpoint_hash = "mute", "u", True, "whole", "none", "1"

    def score(self, images, prompts):
        return [Missing("the server refuses") if n % 2 else float(n) for n in range(len(images))]


def test_a_score_that_is_missing_leaves_its_reason_with_the_candidate(tmp_path):
    consent.allow(__name__)
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:1])
    build(replace(config, scoring=ScoringSettings(scorers=(f"{__name__}:Mute",))))
    run = RunDir(tmp_path / "out")
    (name,) = run.list("units/")
    (row,) = pq.read_table(io.BytesIO(run.read(name))).to_pylist()
    errors = [one["error"] for one in row["candidates"]]
    assert errors == ["", "score: Mute: the server refuses"] * 2
