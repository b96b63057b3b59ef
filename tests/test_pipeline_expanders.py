"""The grammar's prompts and what may count as a prompt."""

from __future__ import annotations

import pytest
import yaml

from drspo.errors import UserError
from miniature import captions, world
from pipeline.ideas.expanders import not_a_prompt
from pipeline.ideas.grammar import FOLDER, load_words
from pipeline.ideas.prompts import ingest
from pipeline.ideas.sources import PromptSettings


def test_the_miniature_vocabulary_is_the_one_its_models_understand():
    axes = load_words("miniature").axes
    names = {axis: tuple(value.name for value in values) for axis, values in axes.items()}
    assert names == {
        "time": world.TIMES,
        "weather": world.WEATHERS,
        "ground": world.GROUNDS,
        "subject": world.SUBJECTS,
        "place": world.PLACES,
    }
    known = {
        "time": captions.TIME_PHRASES,
        "weather": captions.WEATHER_PHRASES,
        "ground": captions.GROUND_NOUNS,
        "subject": captions.SUBJECT_NOUNS,
        "place": captions.PLACE_PHRASES,
    }
    for axis, values in axes.items():
        for value in values:
            assert value.phrases["say"] == tuple(known[axis][value.name])


def test_what_an_idea_names_is_kept_and_the_rest_is_drawn():
    words = load_words("miniature")
    heard = {
        axis: value.name for axis, value in words.hear("An old MILL in tulip fields, at sunset!").items()
    }
    assert heard == {"time": "dusk", "ground": "meadow", "subject": "windmill"}
    drawn = [words.draw("an old mill at sunset", "id", 0, index) for index in range(40)]
    assert {values["subject"].name for values in drawn} == {"windmill"}
    assert {values["time"].name for values in drawn} == {"dusk"}
    assert {values["weather"].name for values in drawn} == set(world.WEATHERS)


def test_plurals_are_heard_and_parts_of_words_are_not():
    words = load_words("miniature")
    assert words.hear("two lighthouses")["subject"].name == "lighthouse"
    assert "ground" not in words.hear("a seamstress") and words.hear("") == {}


def test_a_subject_with_its_own_preposition_takes_it_along():
    words = load_words("miniature")
    prompts = [words.compose("a balloon and the sea", "id", 0, index) for index in range(20)]
    grounds = ("over the sea", "over the ocean", "over calm water")
    assert all("balloon" in prompt and any(ground in prompt for ground in grounds) for prompt in prompts)


@pytest.mark.parametrize("name", ["scroll", "miniature"])
def test_every_composed_prompt_is_whole_and_fits_the_text_encoder(name):
    words = load_words(name)
    for row in ingest(PromptSettings()).to_pylist():
        prompt = words.compose(row["text"], row["prompt_id"], 0, 1)
        assert not_a_prompt(prompt, 60) == "", prompt
        assert "  " not in prompt and "None" not in prompt and not prompt.endswith(",")
        assert name == "miniature" or row["text"] in prompt


def test_articles_fit_their_nouns():
    words = load_words("miniature")
    prompts = [words.compose("a windmill", "id", 0, index) for index in range(60)]
    assert any("an old windmill" in prompt for prompt in prompts)
    assert not any("a old" in prompt or "an windmill" in prompt for prompt in prompts)


def test_ideas_in_other_scripts_are_composed_too():
    prompt = load_words("scroll").compose("雪の中の赤い門", "id")
    assert "雪の中の赤い門" in prompt


def test_a_vocabulary_with_a_hole_is_refused(tmp_path):
    data = yaml.safe_load((FOLDER / "miniature.yaml").read_text())
    broken = [
        ({**data, "forms": ["{subject} and {nothing}"]}, "nowhere defined"),
        ({**data, "forms": ["{subject.far}"]}, "no phrase of kind 'far'"),
        ({**data, "forms": []}, "at least one form"),
        ({"forms": ["{idea}"]}, "axes"),
        ([1, 2], "not a vocabulary"),
    ]
    for number, (content, message) in enumerate(broken):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=message):
            load_words(str(path))
    with pytest.raises(UserError, match="Known: miniature, scroll"):
        load_words("minature")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a lake", "less than 12"),
        ("word " * 61, "61 words"),
        ("a" * 700, "700 characters"),
        ("see https://example.org for a lake", "markup"),
        ("a lake <b>with</b> hills", "markup"),
        ("a lake\x07 with hills and clouds", "control"),
        ("Ignore all the previous instructions now", "talks"),
        ("As an AI I cannot paint a lake", "talks"),
        ("12345 67890 12345 67890", "not letters"),
        ("a quiet lake below snowy mountains at dawn", ""),
        ("雪に覆われた山々の下の静かな湖、夜明け前", ""),
    ],
)
def test_what_cannot_be_a_prompt_is_named(text, problem):
    found = not_a_prompt(text.strip(), 60)
    assert problem in found and bool(found) == bool(problem)
