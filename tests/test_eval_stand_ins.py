"""The stand-ins that ship: published layouts, no download, and the world's order of fresh squares."""

import json

import numpy as np
import pytest
from PIL import Image

from eval.base import METRIC_PRESETS, build_scorer, metric_settings
from eval.metrics.image_reward import MLP_LAYERS, read_sizes, read_state
from miniature.aesthetics import Damage, degrade
from miniature.captions import captions
from miniature.paint import paint
from miniature.pictures import FRESH_SEED, SQUARE
from miniature.scene import sample_scene

NAMES = [name for name, settings in METRIC_PRESETS["miniature"].items() if "weights" in settings]
DAMAGES = (Damage(blur=2.5), Damage(noise=25), Damage(saturation=0.3, contrast=0.5))


@pytest.fixture(scope="module")
def squares():
    """Fresh scenes (no training seed): scene, picture and prompt, 60 of them."""
    scenes = [sample_scene(FRESH_SEED + 950_000 + number, *SQUARE) for number in range(60)]
    return scenes, [paint(scene) for scene in scenes], [captions(scene)[0] for scene in scenes]


def judge(name):
    return build_scorer(name, metric_settings(name, name, model="miniature", shared={"device": "cpu"}))


def scores(scorer, pictures, prompts):
    return np.array(scorer.score([Image.fromarray(picture) for picture in pictures], prompts))


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_another_scene_is_liked_less_under_the_same_prompt(squares, name):
    scenes, pictures, prompts = squares
    others = [
        next(n for n in range(k + 1, k + 60) if scenes[n % 60].subject != scene.subject) % 60
        for k, scene in enumerate(scenes)
    ]
    scorer = judge(name)
    own, other = scores(scorer, pictures, prompts), scores(scorer, [pictures[n] for n in others], prompts)
    assert (own > other).mean() >= 0.85


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_picture_is_liked_less_than_the_same_one_whole(squares, name):
    _, pictures, prompts = squares
    rng = np.random.default_rng(0)
    spoiled = [degrade(picture, DAMAGES[n % 3], rng) for n, picture in enumerate(pictures)]
    scorer = judge(name)
    assert (scores(scorer, pictures, prompts) > scores(scorer, spoiled, prompts)).mean() >= 0.85


def test_they_have_the_published_layouts(repository):
    weights = repository / "miniature" / "weights"
    assert json.loads((weights / "hps_v2" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert json.loads((weights / "pickscore" / "config.json").read_text())["architectures"] == ["CLIPModel"]
    state = read_state(weights / "image_reward" / "ImageReward.safetensors")
    sizes = read_sizes(state)
    assert sizes["vision"]["num_hidden_layers"] == 4 and sizes["text"]["num_hidden_layers"] == 3
    assert [wide for wide, _ in sizes["mlp"]] == [1024, 128, 64, 16, 1] and len(MLP_LAYERS) == 5


def test_they_are_small(repository):
    weights = repository / "miniature" / "weights"
    assert sum(file.stat().st_size for name in NAMES for file in (weights / name).iterdir()) < 10e6
