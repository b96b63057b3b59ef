"""The decoder's last training: what its terms weigh, and what it leaves alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from miniature.fit_autoencoder import build_autoencoder
from miniature.fit_crisp import batch, border_weight, crispness, fit_crisp
from miniature.loop import Task
from miniature.pictures import BLUEPRINT, SQUARE, WIDE, painted, to_tensor
from miniature.world import paint, sample_scene

FLAT = torch.zeros(1, 3, 64, 64)
DRAWN = np.stack([paint(sample_scene(seed, 128, 128, weather="clear")) for seed in range(2)])


def test_the_border_weighs_more_than_the_inside():
    weight = border_weight(torch.zeros(1, 3, 64, 128))[0, 0]
    assert weight[0].min() == weight[:, -1].min() == weight.max() > weight[32, 64] == 1


def test_an_error_along_the_border_costs_more_than_the_same_inside():
    inside, border = FLAT.clone(), FLAT.clone()
    inside[..., 32] = 0.2
    border[..., 1] = 0.2
    assert crispness(border, FLAT) > 1.5 * crispness(inside, FLAT) > crispness(FLAT, FLAT)


def test_one_shift_of_all_pixels_costs_less_than_the_same_error_as_a_pattern():
    shift, pattern = FLAT + 0.1, FLAT + 0.1
    pattern[..., ::2] = -0.1
    assert crispness(pattern, FLAT) > 2 * crispness(shift, FLAT)


def test_a_blurred_edge_costs_more_by_its_flatness_than_a_steeper_one_of_the_same_distance():
    shown = to_tensor(DRAWN)
    blurred = to_tensor(np.stack([cv2.GaussianBlur(picture, (0, 0), 1.2) for picture in DRAWN]))
    steeper = shown + (shown - blurred)  # as far from the drawing, on the other side
    assert (blurred - shown).square().mean() == pytest.approx((steeper - shown).square().mean().item())
    assert crispness(blurred, shown) > 1.1 * crispness(steeper, shown)


def test_every_batch_ends_with_a_picture_without_a_thing_in_it(tmp_path):
    pictures = {size: painted(size, 4, tmp_path) for size in (SQUARE, BLUEPRINT, WIDE)}
    for step in range(6):
        shown = batch(pictures, step)
        assert shown[-1].std(dim=-1).max() < 1e-6  # every row is of one colour
        assert shown[0].std(dim=-1).max() > 0.05 and shown.abs().max() <= 1


def test_the_training_moves_the_decoder_and_leaves_the_encoder(tmp_path, monkeypatch):
    import miniature.fit_crisp as module

    monkeypatch.setattr(module, "PICTURES", {SQUARE: 4, BLUEPRINT: 4, WIDE: 4})
    monkeypatch.setattr(module, "Task", lambda *given, **more: Task(*given, **{**more, "sample": None}))
    torch.manual_seed(0)
    model = build_autoencoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = fit_crisp(model, tmp_path, steps=2).state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"decoder", "post_quant_conv"}
