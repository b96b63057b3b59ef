"""The drawn world: a pure function of its seed, told exactly."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature import captions as words
from miniature.scene import _AXES
from miniature.world import (
    COUNTABLE,
    MIDDLE,
    PLACES,
    SUBJECTS,
    TIMES,
    captions,
    countable,
    inventory,
    paint,
    sample_prompt,
    sample_scene,
)

SIZES = ((64, 64), (64, 256), (128, 128), (128, 256), (128, 512), (96, 480))


@given(seed=st.integers(0, 10**9), size=st.sampled_from(SIZES))
@settings(max_examples=40, deadline=None)
def test_a_scene_has_one_subject_and_one_light_wholly_inside_the_picture(seed, size):
    scene = sample_scene(seed, *size)
    things = countable(scene)
    assert sorted(thing.name for thing in things) == sorted([scene.subject, scene.light])
    for thing in things:
        left, top, right, bottom = thing.box
        assert left >= -1 and top >= -1 and right <= size[1] + 1 and bottom <= size[0] + 1


@given(seed=st.integers(0, 10**9))
@settings(max_examples=10, deadline=None)
def test_the_same_seed_paints_the_same_bytes(seed):
    assert np.array_equal(paint(sample_scene(seed, 64, 256)), paint(sample_scene(seed, 64, 256)))


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_has_the_size_that_was_asked(size):
    picture = paint(sample_scene(3, *size))
    assert picture.shape == (*size, 3) and picture.dtype == np.uint8


def test_the_subject_is_where_the_inventory_says():
    for seed, subject in enumerate(SUBJECTS):
        scene = sample_scene(seed, 128, 512, subject=subject, time="noon", weather="clear", ground="snow")
        other = sample_scene(seed, 128, 512, subject="pine" if subject != "pine" else "gate", time="noon",
                             weather="clear", ground="snow")  # fmt: skip
        left, top, right, bottom = (round(value) for value in inventory(scene)[0].box)
        changed = np.abs(paint(scene).astype(int) - paint(other)).sum(-1) > 60
        assert changed[top:bottom, left:right].mean() > 0.1
        outside = changed.copy()
        outside[:, max(0, left - 60) : right + 60] = False
        assert outside.mean() < 0.02


def test_the_place_decides_the_column_of_the_subject():
    columns = {place: sample_scene(5, 128, 512, place=place).subject_x for place in PLACES}
    assert columns["left"] < 0.33 < columns["centre"] < 0.66 < columns["right"]


def test_a_square_keeps_its_subject_in_the_middle():
    for seed in range(20):
        scene = sample_scene(seed, 128, 128, place="left")
        assert scene.place == MIDDLE and abs(scene.subject_x - 0.5) < 0.06


def test_the_hour_is_readable_from_the_brightness():
    mean = {
        time: np.mean([paint(sample_scene(s, 64, 64, time=time)).mean() for s in range(8)]) for time in TIMES
    }
    assert mean["night"] < mean["dusk"] < mean["noon"]


def test_an_unknown_word_is_refused_by_name():
    with pytest.raises(ValueError, match="choose from"):
        sample_scene(0, 64, 64, subject="submarine")
    with pytest.raises(ValueError, match="has no"):
        sample_scene(0, 64, 64, colour="red")


@given(seed=st.integers(0, 10**9))
@settings(max_examples=40, deadline=None)
def test_every_caption_names_its_subject_and_no_other(seed):
    scene = sample_scene(seed, 128, 512)
    texts = captions(scene)
    assert texts == captions(scene) and len(texts) == 8
    for text in texts:
        named = [
            s for s in SUBJECTS if any(noun in text for noun in words.SUBJECT_NOUNS[s]) or f"{s}," in text
        ]
        assert named == [scene.subject]


def test_the_full_prompt_says_hour_weather_ground_and_place():
    scene = sample_scene(11, 128, 512)
    prompt = sample_prompt(11)
    assert any(phrase in prompt for phrase in words.TIME_PHRASES[scene.time])
    assert any(phrase in prompt for phrase in words.WEATHER_PHRASES[scene.weather])
    assert any(noun in prompt for noun in words.GROUND_NOUNS[scene.ground])
    assert any(phrase in prompt for phrase in words.PLACE_PHRASES[scene.place])


def test_every_word_of_the_world_has_phrasings():
    phrases = {**words.TIME_PHRASES, **words.WEATHER_PHRASES, **words.GROUND_NOUNS, **words.SUBJECT_NOUNS}
    phrases |= words.PLACE_PHRASES | words.LIGHT_PHRASES
    assert {word for axis in _AXES.values() for word in axis} | set(COUNTABLE) == set(phrases)


def test_the_world_needs_no_torch():
    code = "import sys, miniature.world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
