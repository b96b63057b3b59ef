"""Window plans cover the canvas, count overlaps right, and paste back what they cropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drspo.errors import UserError
from generate.canvas.windows import (
    Window,
    crop_index,
    paste_index,
    plan_windows,
    scale,
    shrink,
    window_shape,
)
from tests.small_scrolls import overlap_counts


@st.composite
def plans(draw):
    """(height, width, windows) of canvases up to 60 x 90 with any fitting window and stride."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 90))
    window = draw(st.integers(1, height)), draw(st.integers(1, width))
    stride = draw(st.integers(1, window[0])), draw(st.integers(1, window[1]))
    return height, width, plan_windows(height, width, window, stride, wrap=draw(st.booleans()))


@given(plans())
def test_every_element_is_covered(plan):
    height, width, windows = plan
    assert overlap_counts(windows, height, width).min() >= 1


@given(plans())
def test_windows_are_unique_equal_in_size_and_row_major(plan):
    _, _, windows = plan
    assert len(set(windows)) == len(windows)
    assert list(windows) == sorted(windows)
    assert min(window_shape(windows)) >= 1


@given(plans())
def test_pasting_returns_exactly_what_was_cropped(plan):
    height, width, windows = plan
    canvas = np.arange(height * width)
    crops = canvas[crop_index(windows, height, width)]
    source, valid = paste_index(windows, height, width)
    pasted = crops.ravel()[source]
    assert (pasted == canvas)[valid].all()
    np.testing.assert_array_equal(valid.sum(axis=0), overlap_counts(windows, height, width).ravel())


@given(plans())
def test_pasting_uses_every_window_element_once(plan):
    height, width, windows = plan
    source, valid = paste_index(windows, height, width)
    used = np.sort(source[valid])
    np.testing.assert_array_equal(used, np.arange(crop_index(windows, height, width).size))


def test_the_papers_plan_has_13_windows_and_overlaps_1_2_3_4():
    windows = plan_windows(128, 512, 128, 32)
    counts = overlap_counts(windows, 128, 512)
    assert len(windows) == 13
    assert (counts == counts[0]).all()
    expected = np.full(512, 4)
    for band, count in enumerate((1, 2, 3)):
        expected[32 * band : 32 * (band + 1)] = expected[512 - 32 * (band + 1) : 512 - 32 * band] = count
    np.testing.assert_array_equal(counts[0], expected)


def test_the_last_window_ends_flush_with_the_edge():
    windows = plan_windows(64, 138, 64, 16)
    assert windows[-1] == Window(0, 64, 74, 138)
    assert [w.x0 for w in windows] == [0, 16, 32, 48, 64, 74]


def test_the_uncovered_plan_leaves_out_what_the_stride_does_not_reach():
    windows = plan_windows(64, 138, 64, 16, edge="uncovered")
    assert [w.x0 for w in windows] == [0, 16, 32, 48, 64]
    assert (overlap_counts(windows, 64, 138)[:, 128:] == 0).all()


def test_a_two_dimensional_grid_goes_row_by_row():
    windows = plan_windows(80, 112, 64, 16)
    assert [(w.y0, w.x0) for w in windows] == [(y, x) for y in (0, 16) for x in (0, 16, 32, 48)]


def test_a_wrapped_plan_overlaps_evenly_all_the_way_around():
    counts = overlap_counts(plan_windows(16, 64, 16, 4, wrap=True), 16, 64)
    assert (counts == 4).all()
    assert crop_index(plan_windows(16, 64, 16, 4, wrap=True), 16, 64)[-1, 0].tolist() == [
        60,
        61,
        62,
        63,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
    ]


@given(plans(), st.integers(1, 8))
def test_shrinking_undoes_scaling(plan, factor):
    for window in plan[2]:
        assert shrink(scale(window, factor), factor) == window


def test_a_window_off_the_coarse_grid_is_refused_with_the_grid_named():
    with pytest.raises(UserError, match="multiples of 4 latents"):
        shrink(Window(0, 64, 74, 138), 4)


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (65, 8, "larger than the canvas"),
        (64, 0, "stride of 0"),
        (64, 65, "stride of 65"),
        (0, 1, "at least 1"),
    ],
)
def test_impossible_plans_are_refused(window, stride, message):
    with pytest.raises(UserError, match=message):
        plan_windows(64, 128, window, stride)
