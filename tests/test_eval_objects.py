"""What the detector sees of what was asked for, on drawn scenes of which everything is known."""

import math

import numpy as np
import pytest
from PIL import Image

from drspo.errors import UserError
from eval.controls import objects
from eval.controls.drawn import drawn
from eval.metrics.objects import RepeatedObjects, SceneRight, SubjectPresent, asked_place, asked_subject
from miniature.captions import captions
from miniature.scene import SUBJECTS

SCENES = [drawn(91_000_000 + seed) for seed in range(12)]


def scored(metric, scene, prompt, image=None):
    return metric.score([Image.fromarray(scene.clean if image is None else image)], [prompt])[0]


def test_every_full_caption_names_its_subject_and_its_place():
    for scene in SCENES:
        for text in captions(scene.scene)[:4]:
            assert asked_subject(text) == scene.scene.subject, text
            assert asked_place(text) == scene.scene.place, text
    assert asked_subject("a wide view of the sea") is None and asked_place("a wide view of the sea") is None


def test_a_drawn_scene_is_right_for_its_own_caption():
    right = [scored(SceneRight(), scene, captions(scene.scene)[0]) for scene in SCENES]
    present = [scored(SubjectPresent(), scene, captions(scene.scene)[0]) for scene in SCENES]
    assert sum(right) >= 11 and sum(present) == 12


def test_another_subject_or_another_place_makes_a_scene_wrong():
    for scene in SCENES[:6]:
        other = next(name for name in SUBJECTS if name != scene.scene.subject)
        assert scored(SubjectPresent(), scene, f"a {other} on the left") == 0
        assert scored(SceneRight(), scene, f"a {other}") == 0
        place = "left" if scene.scene.place != "left" else "right"
        assert scored(SceneRight(), scene, f"a {scene.scene.subject} on the {place}") == 0


def test_a_copy_makes_a_scene_wrong_unless_the_detector_misses_it():
    wrong, counted = 0, 0
    for scene in SCENES:
        image = objects.copies(scene, np.random.default_rng(3), 1)
        wrong += scored(SceneRight(), scene, captions(scene.scene)[0], image) == 0
        counted += scored(RepeatedObjects(), scene, "", image) >= 1
    assert min(wrong, counted) >= 10


def test_a_prompt_that_names_no_subject_leaves_the_number_missing():
    assert math.isnan(scored(SubjectPresent(), SCENES[0], "a wide view"))
    assert math.isnan(scored(SceneRight(), SCENES[0], "a wide view"))
    with pytest.raises(UserError, match="prompt"):
        scored(SceneRight(), SCENES[0], "")
