"""Every entry of the one registry keeps the one contract, with the settings that a configuration gives it."""

import inspect

import numpy as np
import pytest
from PIL import Image

from drspo.errors import UserError
from eval import MEASURES, METRICS, SCORERS
from eval.base import AGGREGATES, about, check_metric, metric_class, metric_settings
from eval.base import build_scorer as build

SHIPPED = [
    name for name in METRICS if name not in ("question", "intra_lpips", "intra_style", "surplus_photo")
]
"""What works with the files that ship; the others have tests of their own on networks made there."""


def picture(seed):
    small = np.random.default_rng(seed).integers(0, 255, (16, 64, 3), np.uint8)
    return Image.fromarray(small).resize((512, 128), Image.Resampling.BICUBIC)


PICTURES = [picture(seed) for seed in range(3)]
PROMPTS = ["a castle at dusk", "a lone pine in the snow", "a windmill"]


def made(name, *options):
    settings = metric_settings(name, name, model="miniature", options=options, shared={"device": "cpu"})
    return build(name, settings)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_metric_declares_itself_and_scores_a_batch_as_singles(name):
    metric = made(name)
    check_metric(metric, name)
    for key in ("name", "unit", "checkpoint", "checkpoint_hash", "view"):
        assert getattr(metric, key) and isinstance(getattr(metric, key), str), key
    assert isinstance(metric.higher_is_better, bool) and about(metric, "aggregate") in AGGREGATES
    together = metric.score(PICTURES, PROMPTS)
    alone = [metric.score([image], [text])[0] for image, text in zip(PICTURES, PROMPTS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4, nan_ok=True) and all(
        isinstance(value, float) for value in together
    )
    assert metric.score([], []) == []


@pytest.mark.parametrize("name", METRICS)
def test_every_setting_has_a_default_of_a_plain_type(name):
    for key, parameter in inspect.signature(metric_class(name)).parameters.items():
        assert isinstance(parameter.default, (str, int, float, bool)), f"{name}.{key}"


@pytest.mark.parametrize("name", ["aesthetic", "hps_v2", "pickscore", "image_reward", "clip"])
def test_views_are_reached_from_the_command_line(name):
    official = {"hps_v2": "letterbox"}.get(name, "official")
    assert made(name, f"{name}.view=squash").view == "squash"
    assert made(name, f"{name}.view=official").view == official
    with pytest.raises(UserError, match="unknown view"):
        made(name, f"{name}.view=middle")


def test_backbone_and_head_are_reached_from_the_command_line(tmp_path):
    head = tmp_path / "mine.safetensors"
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((1, 128), np.float32), "bias": np.full(1, 7, np.float32)}, head)
    metric = made("aesthetic", f"aesthetic.head={head}", "aesthetic.backbone=package:miniature/weights/clip")
    assert metric.score(PICTURES[:1], [""]) == [7.0]


def test_the_old_names_divide_the_registry():
    assert SCORERS | MEASURES == METRICS and not set(SCORERS) & set(MEASURES)


class Plugin:
    """A plugin that takes the device and the backbone as our own metrics do."""

    name, unit, higher_is_better, view, checkpoint, checkpoint_hash = "mine", "u", True, "whole", "none", "1"

    def __init__(self, device="cpu", backbone="", strength=1.0):
        self.device, self.backbone, self.strength = device, backbone, strength

    def score(self, images, prompts):
        return [self.strength for _ in images]


def test_a_plugin_gets_the_same_settings_by_the_same_words():
    from drspo import consent

    consent.allow(__name__)
    target = f"{__name__}:Plugin"
    settings = metric_settings(
        "mine", target, model="miniature", options=("mine.strength=2.5",), shared={"device": "cpu"}
    )
    assert settings == {"device": "cpu", "backbone": "miniature", "strength": 2.5}
    assert build(target, settings).score(PICTURES, PROMPTS) == [2.5] * 3


def test_an_object_that_breaks_the_contract_is_named_with_what_it_lacks():
    with pytest.raises(UserError, match="lacks unit, higher_is_better"):
        check_metric(type("Half", (), {"name": "half", "checkpoint": "", "checkpoint_hash": "", "view": "",
                                       "score": None}), "half")  # fmt: skip
    wrong = type("Wrong", (Plugin,), {"aggregate": "sum"})
    with pytest.raises(UserError, match="aggregates by 'sum'"):
        check_metric(wrong(), "wrong")
