"""What the measures of the autoencoder's copies see, and what they do not mind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from miniature.fidelity import flat_pictures, frame, grid, sharpness, spread
from miniature.world import countable, paint, sample_scene

SCENES = [sample_scene(seed, 128, 128) for seed in range(6)]
DRAWN = np.stack([paint(scene) for scene in SCENES])
THINGS = [countable(scene) for scene in SCENES]


def test_flat_pictures_have_no_frame_no_grid_and_no_spread():
    flat = flat_pictures((64, 128))
    assert frame(flat) == (0, 0) and grid(flat) == 0 and spread(flat) == 0


def test_a_drawn_scene_steps_at_its_border_as_it_does_inside():
    worst, inside = frame(DRAWN)
    assert worst < 2 * inside


def test_a_frame_of_one_column_is_seen():
    framed = DRAWN.copy()
    framed[:, :, -1] = np.clip(framed[:, :, -1].astype(int) + 12, 0, 255)
    assert frame(framed)[0] > frame(DRAWN)[0] + 5 and frame(framed)[1] == frame(DRAWN)[1]


def test_a_pattern_of_the_latents_period_is_a_grid_and_grain_is_not():
    flat = flat_pictures((128, 128))
    gridded = flat.copy()
    gridded[:, ::8] = np.minimum(gridded[:, ::8].astype(int) + 8, 255)
    grain = np.random.default_rng(0).normal(0, 8, flat.shape)
    noisy = np.clip(flat + grain, 0, 255).astype(np.uint8)
    assert grid(gridded) > 1.5 > grid(noisy)
    assert spread(noisy) > 4


def test_a_picture_is_as_sharp_as_itself_and_blur_takes_sharpness():
    assert sharpness(DRAWN, DRAWN, THINGS) == pytest.approx(1)
    blurred = [
        np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in DRAWN]) for sigma in (0.7, 1.5)
    ]
    mild, strong = (sharpness(DRAWN, pictures, THINGS) for pictures in blurred)
    assert strong < 0.6 < mild < 0.95
