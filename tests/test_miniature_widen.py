"""A widened network computes what the small one did, and its twins can part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel

from miniature.fit_unet import added, build_unet, fit_wide_unet
from miniature.latents import Encoded
from miniature.pictures import BUCKETS
from miniature.widen import widened

SIZE = (64, 128)


def _inputs():
    generator = torch.Generator().manual_seed(0)
    noisy, hidden, pooled = (
        torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 16), (2, 77, 160), (2, 96))
    )
    return (noisy, torch.tensor([20, 800]), hidden), added(pooled, SIZE)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = build_unet().eval()
    with torch.no_grad():  # biases and norms start at values that would hide a wrong order of channels
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return model


@torch.no_grad()
def test_a_widened_unet_predicts_what_the_small_one_did(small):
    given, conditions = _inputs()
    wide = widened(small).eval()
    before = small(*given, added_cond_kwargs=conditions).sample
    after = wide(*given, added_cond_kwargs=conditions).sample
    assert wide.config.block_out_channels == tuple(2 * width for width in small.config.block_out_channels)
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))


@torch.no_grad()
def test_a_widened_controlnet_steers_a_widened_unet_as_before(small):
    torch.manual_seed(1)
    control = ControlNetModel.from_unet(small, conditioning_embedding_out_channels=(8, 16, 24, 32)).eval()
    for block in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        block.weight.normal_(0, 0.1)
    edges = torch.rand(2, 3, *SIZE)
    given, conditions = _inputs()

    def steered(unet, controlnet):
        down, mid = controlnet(*given, edges, added_cond_kwargs=conditions, return_dict=False)
        return unet(
            *given, added_cond_kwargs=conditions, down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample  # fmt: skip

    before, after = steered(small, control), steered(widened(small).eval(), widened(control).eval())
    assert not torch.allclose(before, small(*given, added_cond_kwargs=conditions).sample, atol=1e-3)
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))


def test_twins_receive_different_gradients(small):
    given, conditions = _inputs()
    wide = widened(small)
    wide(*given, added_cond_kwargs=conditions).sample.square().mean().backward()
    gradient = wide.down_blocks[1].resnets[0].conv1.weight.grad
    first, second = gradient[0::2], gradient[1::2]
    assert (first - second).abs().mean() > 0.05 * first.abs().mean()


def test_a_widened_unet_trains_on_in_single_precision_weights(small, tmp_path):
    rng = np.random.default_rng(0)
    buckets = [
        Encoded(size, *(rng.normal(size=(4, *shape)).astype(np.float16) for shape in shapes))
        for size in BUCKETS
        for shapes in [((4, size[0] // 8, size[1] // 8), (77, 160), (96,))]
    ]
    trained = fit_wide_unet(small, buckets, tmp_path, steps=2)
    before = widened(small).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert {value.dtype for value in trained.parameters()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in trained.parameters())


def test_the_same_seed_widens_alike(small):
    first, second = widened(small, seed=4).state_dict(), widened(small, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
