"""What plugins give back is checked: a wrong answer is its own candidates' death, by the plugin's name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drspo import consent
from drspo.errors import UserError
from eval.base import Missing
from pipeline.candidates.answers import checked_scores, problem
from pipeline.plugins import WrongAnswerError
from pipeline.settings import CandidateSettings, ScoringSettings
from tests.building import FAKES, IDEAS, build, fake_config
from tests.plugin_wrong import BAD_IMAGES, BAD_SCORES

WRONG = "tests.plugin_wrong"


def the_death(folder: Path) -> dict:
    (file,) = (folder / "out/dead").iterdir()
    return json.loads(file.read_text())


@pytest.mark.parametrize("how", BAD_IMAGES)
def test_a_generators_wrong_answer_is_the_death_of_that_prompt_by_name(tmp_path: Path, how: str) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    consent.allow(WRONG)
    settings = CandidateSettings(
        model="",
        generators=(f"{WRONG}:WrongPainter",),
        options=(f"{WRONG}:WrongPainter.how={how}",),
        height=32,
        width=64,
    )
    outcome = build(replace(config, candidates=settings))
    assert (outcome.made_now, outcome.dead) == (len(IDEAS), 1)
    death = the_death(tmp_path)
    assert "castle" in death["prompt"] and "WrongPainter: " in death["error"], death["error"]
    assert len(death["candidates"]) >= 1


@pytest.mark.parametrize("how", BAD_SCORES)
def test_a_scorers_wrong_answer_is_the_death_of_that_prompt_by_name(tmp_path: Path, how: str) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    consent.allow(WRONG)
    settings = ScoringSettings(
        scorers=(f"{FAKES}:Contrast", f"{WRONG}:WrongScorer"), options=(f"{WRONG}:WrongScorer.how={how}",)
    )
    outcome = build(replace(config, scoring=settings))
    assert (outcome.made_now, outcome.dead) == (len(IDEAS), 1)
    death = the_death(tmp_path)
    assert "castle" in death["prompt"] and "score: WrongScorer: " in death["error"], death["error"]


def test_one_infinite_score_does_not_touch_the_others(tmp_path: Path) -> None:
    from pipeline.shards import read_pairs

    config = fake_config(tmp_path, tmp_path / "out")
    consent.allow(WRONG)
    settings = ScoringSettings(scorers=(f"{WRONG}:WrongScorer",), options=(f"{WRONG}:WrongScorer.how=inf",))
    pairs = replace(config.pairs, weights=("WrongScorer=1",), normalise="zscore", validation_fraction=0.0)
    build(replace(config, scoring=settings, pairs=pairs))
    margins = [pair["margin"] for pair in read_pairs(str(tmp_path / "out"))]
    assert len(margins) == len(IDEAS) - 1 and all(0 < margin < 100 for margin in margins)


class Nameless:
    def score(self, images: list, prompts: list[str]) -> list[float]:
        return [0.0 for _ in images]


def test_a_scorer_without_the_contract_is_refused_before_any_image(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    consent.allow("tests.test_pipeline_answers")
    scoring = ScoringSettings(scorers=("tests.test_pipeline_answers:Nameless",))
    with pytest.raises(UserError, match="Nameless' lacks checkpoint, checkpoint_hash, view"):
        build(replace(config, scoring=scoring))
    assert not (tmp_path / "out/units").exists()


def test_numbers_of_every_library_are_numbers_and_nothing_else_is() -> None:
    assert checked_scores((1, 2.5, np.float32(3), torch.tensor(4.0), np.array(5.0)), 5) == [1, 2.5, 3, 4, 5]
    assert checked_scores(np.array([1.0, 2.0]), 2) == [1, 2]
    assert checked_scores(torch.tensor([1.0, 2.0]), 2) == [1, 2]
    (kept,) = checked_scores([Missing("no face")], 1)
    assert problem({"faces": kept}) == "faces: no face"
    for wrong in (["1"], [None], [1j], [[1.0]], [torch.zeros(2)], {"a": 1.0}, "1"):
        with pytest.raises(WrongAnswerError):
            checked_scores(wrong, 1)
