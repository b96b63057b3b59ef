"""What each view shows of a long image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drspo.errors import UserError
from eval.backbones.views import seen_fraction, shown, window_boxes


@pytest.fixture(scope="module")
def ramp():
    """A 1024x4096 image whose red channel is its x and whose green channel is one everywhere."""
    red = np.broadcast_to(np.linspace(0, 255, 4096), (1024, 4096))
    return Image.fromarray(np.stack([red, np.full_like(red, 255), red * 0], -1).astype(np.uint8))


# What open_clip 3.3.0's resize modes "shortest", "longest" and "squash" show of this ramp.
@pytest.mark.parametrize(
    ("view", "valid_rows", "x_fraction_seen"),
    [
        ("official", [0, 223], [0.3764706, 0.6235294]),
        ("letterbox", [84, 139], [0.0039216, 0.9960784]),
        ("squash", [0, 223], [0.0039216, 0.9960784]),
    ],
)
def test_views_see_what_open_clips_resize_modes_see(ramp, view, valid_rows, x_fraction_seen):
    pixels = np.asarray(shown(ramp, view, 224)[0], float)
    rows = np.flatnonzero(pixels[..., 1].max(axis=1) > 128)
    assert [rows[0], rows[-1]] == valid_rows
    seen = pixels[rows[len(rows) // 2], :, 0] / 255
    assert np.allclose([seen[0], seen[-1]], x_fraction_seen, atol=1.5 / 255)


def test_the_official_view_of_a_scroll_is_its_middle_quarter(ramp):
    assert seen_fraction(4096, 1024, "official") == 0.25
    assert {seen_fraction(4096, 1024, view) for view in ("letterbox", "squash", "windows")} == {1.0}


def test_a_four_to_one_scroll_has_seven_overlapping_windows():
    assert len(window_boxes(4096, 1024)) == 7
    assert window_boxes(1024, 4096)[-1] == (0, 3072, 1024, 4096)


@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_windows_are_squares_that_cover_the_long_side(width, height, overlap):
    boxes = window_boxes(width, height, overlap=overlap)
    side = min(width, height)
    covered = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        assert (right - left, bottom - top) == (side, side)
        assert left >= 0 and right <= width and top >= 0 and bottom <= height
        covered[top:bottom, left:right] = True
    assert covered.all()


def test_an_unknown_view_is_refused_with_the_choices(ramp):
    with pytest.raises(UserError, match="letterbox"):
        shown(ramp, "whole", 224)
