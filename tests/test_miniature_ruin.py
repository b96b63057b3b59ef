"""Ruined scenes: what is said to be in them is in them, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature.ruin import SEEN, Ruin, _added, _mask, crowd, ghosts, sample_ruin
from miniature.world import SUBJECTS, Thing, countable, paint, sample_scene


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_crowd_is_of_one_subject_under_one_light_and_the_same_for_the_same_seed(seed):
    picture, things = crowd(seed, 64, 256)
    again, told = crowd(seed, 64, 256)
    assert picture.shape == (64, 256, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, again) and things == told
    names = [thing.name for thing in things]
    assert len({name for name in names if name in SUBJECTS}) <= 1
    assert len([name for name in names if name not in SUBJECTS]) == 1


def test_crowds_have_from_none_to_several_copies():
    counts = [sum(thing.name in SUBJECTS for thing in crowd(seed, 64, 256)[1]) for seed in range(40)]
    assert min(counts) == 0 and max(counts) >= 4


def test_every_ruin_leaves_half_of_a_copy():
    rng = np.random.default_rng(0)
    ruins = [sample_ruin(rng) for _ in range(300)]
    assert 0.25 < np.mean([ruin == Ruin() for ruin in ruins]) < 0.42
    assert min(ruin.opacity for ruin in ruins) > SEEN and min(ruin.kept for ruin in ruins) >= 0.5
    assert {ruin.side for ruin in ruins} == {0, 1, 2, 3}


@pytest.mark.parametrize("side", range(4))
def test_a_cut_copy_is_painted_on_the_side_that_is_kept(side):
    scene = sample_scene(2, 64, 256, subject="castle", time="noon", weather="clear", ground="snow")
    left, top, right, bottom = countable(scene)[0].box
    mask = _mask(scene, Ruin(kept=0.5, side=side))
    inside = mask[int(top) : int(bottom), int(left) : int(right)]
    rows, columns = inside.shape
    cut = (inside[:, : columns // 3], inside[:, -columns // 3 :], inside[: rows // 3], inside[-rows // 3 :])
    assert cut[side].mean() < 0.05 < 0.8 < cut[side ^ 1].mean()


def test_a_ruined_copy_changes_the_picture_only_around_its_box():
    scene = sample_scene(2, 64, 256, subject="gate", time="noon", weather="clear")
    before = paint(sample_scene(3, 64, 256, subject="pine"))
    after = _added(before, scene, Ruin(smear=2.0, wave=2.0), np.random.default_rng(0))
    changed = np.abs(after.astype(int) - before).max(-1) > 0
    left, _, right, _ = (int(value) for value in countable(scene)[0].box)
    assert changed[:, left:right].any() and not changed[:, : left - 8].any()
    assert not changed[:, right + 8 :].any()


def test_of_two_averaged_pictures_the_fainter_ones_things_are_not_counted():
    first, second = crowd(1, 64, 256), crowd(2, 64, 256)
    assert ghosts(first, second, 1.0)[1] == first[1]
    assert np.array_equal(ghosts(first, second, 1.0)[0], first[0])
    assert ghosts(first, second, 0.8)[1] == first[1]
    assert len(ghosts(first, second, 0.5)[1]) > len(first[1])


def test_two_things_of_a_name_in_one_place_are_one():
    blank = np.zeros((64, 256, 3), np.uint8)
    here, near, far = (Thing("sun", (x, 10, x + 8, 18)) for x in (100, 104, 160))
    assert ghosts((blank, [here]), (blank, [near]), 0.5)[1] == [here]
    assert ghosts((blank, [here]), (blank, [far]), 0.5)[1] == [here, far]
