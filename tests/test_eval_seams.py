"""The measures of seams answer to steps across the whole picture, wherever they lie, and to nothing else."""

import numpy as np
import pytest
from PIL import Image

from eval.controls import objects, pictures, surroundings
from eval.controls.drawn import drawn
from eval.metrics.seams import BorderSeams, Seams, seam_strength

SCENES = [drawn(91_000_000 + seed) for seed in range(6)]
RNG = np.random.default_rng(0)


def blind(image):
    return Seams().score([Image.fromarray(image)], [""])[0]


def at_borders(image, stride=0.25):
    return BorderSeams(stride).score([Image.fromarray(image)], [""])[0]


@pytest.mark.parametrize("levels", [3, 6, 12])
def test_faint_steps_at_every_border_raise_both_measures(levels):
    for scene in SCENES:
        stepped = pictures.steps(scene, RNG, levels)
        assert blind(stepped) > blind(scene.clean) + 0.2 * levels
        assert at_borders(stepped) > at_borders(scene.clean) + 0.2 * levels


def test_one_hard_cut_is_seen_at_its_column_by_the_blind_measure_alone():
    for scene in SCENES:
        cut = scene.clean.copy()
        cut[:, 300:] = 255 - cut[:, 300:]
        assert blind(cut) > 10
        assert abs(int(np.argmax(seam_strength(cut))) - 300) <= 1
        assert at_borders(cut) < 0.5


def test_pasted_objects_noise_and_blur_are_no_seams():
    for scene in SCENES:
        for image in (
            objects.copies(scene, np.random.default_rng(1), 2),
            pictures.noise(scene, np.random.default_rng(1), 6),
            pictures.blur(scene, RNG, 1),
            surroundings.stars(scene, np.random.default_rng(1)),
        ):
            if image is not None:
                assert blind(image) < 0.3 and at_borders(image) < 0.3


def test_borders_of_another_stride_are_not_read():
    stepped = pictures.steps(SCENES[1], RNG, 12)
    assert at_borders(stepped) > 3 > 0.5 > at_borders(stepped, stride=0.4)


def test_a_tall_scroll_is_read_along_its_height():
    stepped = pictures.steps(SCENES[0], RNG, 12)
    assert blind(np.ascontiguousarray(stepped.transpose(1, 0, 2))) == pytest.approx(blind(stepped))


def test_a_picture_too_short_for_a_border_has_no_seams():
    square = SCENES[0].clean[:, :128]
    assert blind(square) < 0.5 and at_borders(square[:, :40], stride=1.0) == 0.0


@pytest.mark.parametrize("stride", [0, -1, 1.5, float("nan")])
def test_a_stride_that_is_no_share_of_the_height_is_refused(stride):
    from drspo.errors import UserError

    with pytest.raises(UserError, match="stride"):
        BorderSeams(stride)
