"""Winner and loser in one call: the gradients of one at a time, from one forward and one backward pass."""

from dataclasses import replace

import pytest
import torch

from generate.canvas.windows import Window
from tests.test_train_adapters import load_unet, problem
from train.engine.field import Field
from train.engine.gradient import gradients
from train.lora.adapters import add_lora, lora_layers, lora_parameters
from train.lora.twins import trainable, twins
from train.objective.pair import in_one_call, pair_gradients
from train.settings import LossSettings

WHOLE = (Window(0, 16, 0, 32),)


def with_lora(golden, dtype=torch.float32):
    """A UNet whose LoRA acts, gently: a wild one multiplies rounding by millions, this one by a thousand."""
    unet = load_unet(golden).to(dtype)
    add_lora(unet, rank=4, alpha=8, seed=5, dtype=dtype)
    with torch.no_grad():
        for index, parameter in enumerate(lora_parameters(unet)):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(0.05 * noise.to(dtype))
    return unet


@pytest.fixture(scope="module")
def trained(golden):
    return with_lora(golden)


def distance(a, b) -> float:
    flat_a, flat_b = (torch.cat([x.reshape(-1) for x in xs]) for xs in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


@pytest.mark.parametrize(
    ("windows", "schedule", "checkpointing"),
    [(WHOLE, "stream", False), (WHOLE, "stream", True), (None, "stream", False), (None, "two_pass", False)],
)
def test_each_side_gets_the_gradient_that_it_gets_alone(trained, windows, schedule, checkpointing):
    pair = problem(trained, windows=windows, micro_batch=2)
    parameters = lora_parameters(trained)
    alone = gradients(Field(pair), trainable(trained))
    if checkpointing:
        trained.enable_gradient_checkpointing()
        trained.train()
    try:
        both = gradients(Field(replace(pair, together=True)), trainable(trained), schedule)
    finally:
        trained.disable_gradient_checkpointing()
        trained.eval()
    for ours, expected in zip(both, alone, strict=True):
        assert ours.error == pytest.approx(expected.error, rel=1e-4)
        assert distance(ours.grads, expected.grads) < 1e-3
    assert distance(both[0].grads, both[1].grads) > 0.1
    assert all(p.grad is None for p in parameters)


def test_in_float64_the_gradients_are_the_same_to_rounding(golden):
    unet = with_lora(golden, torch.float64)
    pair = problem(unet, windows=WHOLE, micro_batch=2)
    sides = [replace(side, latents=side.latents.double(), target=side.target.double()) for side in pair.sides]
    pair = replace(pair, sides=tuple(sides))
    both = gradients(Field(replace(pair, together=True)), trainable(unet))
    for ours, alone in zip(both, gradients(Field(pair), trainable(unet)), strict=True):
        assert distance(ours.grads, alone.grads) < 1e-10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_step_has_z_exactly_zero(golden, precision):
    autocast = torch.bfloat16 if precision == "bf16" else None
    unet = load_unet(golden).to(autocast or torch.float32)
    add_lora(unet, rank=4)
    pair = problem(unet, windows=WHOLE, micro_batch=2, autocast=autocast)
    result = pair_gradients(replace(pair, together=True), trainable(unet), LossSettings())
    assert result.metrics["z"] == 0.0 and result.metrics["kl_proxy_w"] == 0.0
    assert any(g.any() for g in result.grads) and {g.dtype for g in result.grads} == {torch.float32}


def test_only_one_window_and_two_per_call_run_together(trained):
    calls = []
    for windows, micro_batch in ((WHOLE, 2), (WHOLE, 1), (None, 2)):
        pair = problem(trained, windows=windows, micro_batch=micro_batch)
        seen = []
        counting = replace(
            pair,
            predict=lambda x, w, p=pair.predict, seen=seen: (seen.append(len(w)), p(x, w))[1],
            together=in_one_call(len(pair.windows), micro_batch, LossSettings(), trainable(trained)),
        )
        pair_gradients(counting, trainable(trained), LossSettings())
        calls.append(seen)
    assert calls == [[2, 2], [1, 1, 1, 1], [2, 1] * 4]


def test_a_loss_that_needs_the_winners_graph_alone_does_not_share_its_call(trained):
    whole = replace(problem(trained, windows=WHOLE, micro_batch=2), together=True)
    assert not in_one_call(1, 2, LossSettings(reference_anchor=0.1), trainable(trained))
    with pytest.raises(ValueError, match="together must be off"):
        pair_gradients(whole, trainable(trained), LossSettings(reference_anchor=0.1))


def test_afterwards_the_layers_are_as_before(trained):
    layers = lora_layers(trained)
    with pytest.raises(RuntimeError, match="in the middle"), twins(trained):
        assert all("forward" in layer.module.__dict__ for layer in layers)
        raise RuntimeError("in the middle")
    assert layers and not any("forward" in layer.module.__dict__ for layer in layers)
