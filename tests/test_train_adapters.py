"""LoRA on a real UNet: what it touches, how it starts, and that the reference is over before any backward."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel

from drspo.errors import UserError
from generate.canvas.blend import window_weights
from generate.canvas.windows import Window, plan_windows
from train.engine.field import Field
from train.engine.gradient import gradients
from train.engine.predictor import window_predictor
from train.engine.problem import Problem, Side
from train.lora.adapters import (
    add_lora,
    load_lora_state,
    lora_norm,
    lora_parameters,
    lora_state,
    named_lora_parameters,
    reference,
)
from train.lora.twins import trainable
from train.objective.pair import pair_gradients
from train.settings import LossSettings


def load_unet(golden):
    return UNet2DConditionModel.from_pretrained(golden / "models" / "tiny-sdxl" / "unet")


@pytest.fixture(scope="module")
def base(golden):
    return load_unet(golden)


@pytest.fixture(scope="module")
def trained(golden):
    """A UNet whose LoRA is not at its start: B is no longer 0."""
    unet = load_unet(golden)
    add_lora(unet, rank=4, alpha=8, seed=5)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in named_lora_parameters(unet).items():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return unet


def predictor(unet, autocast=None, canvas=(128, 256)):
    generator = torch.Generator().manual_seed(2)
    embeds = torch.randn(1, 7, unet.config.cross_attention_dim, generator=generator).to(unet.dtype)
    ids = 6 * unet.config.addition_time_embed_dim
    pooled = torch.randn(1, unet.config.projection_class_embeddings_input_dim - ids, generator=generator)
    return window_predictor(unet, 500.0, embeds, pooled.to(unet.dtype), canvas, autocast=autocast)


def problem(unet, *, windows=None, micro_batch=1, autocast=None):
    generator = torch.Generator().manual_seed(3)
    latents_w, latents_l, noise = (torch.randn(1, 4, 16, 32, generator=generator) for _ in range(3))
    windows = windows or plan_windows(16, 32, 16, 8)
    return Problem(
        sides=(Side(latents=latents_w, target=noise), Side(latents=latents_l, target=noise)),
        windows=windows,
        weights=window_weights("feathered", windows[0].height, windows[0].width),
        predict=predictor(unet, autocast),
        micro_batch=micro_batch,
    )


def output(unet):
    crops = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    return predictor(unet)(crops, [Window(0, 16, 0, 16)])


def test_only_the_attention_projections_are_trained_and_in_float32_on_a_bfloat16_base(golden):
    unet = load_unet(golden).to(torch.bfloat16)
    add_lora(unet, rank=4)
    names = list(named_lora_parameters(unet))
    layers = {name.partition(".lora_")[0] for name in names}
    ends = {layer.split(".attn")[1][2:] for layer in layers}
    assert ends == {"to_q", "to_k", "to_v", "to_out.0"}
    attentions = [n for n, _ in unet.named_modules() if n.endswith((".attn1", ".attn2"))]
    assert len(layers) == 4 * len(attentions) > 0
    assert {p.dtype for p in lora_parameters(unet)} == {torch.float32}
    trainable = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trainable == set(names) and names == sorted(names)


def test_the_start_is_a_function_of_the_seed_and_disturbs_no_other_random_numbers(golden):
    states = []
    for seed in (1, 1, 2):
        unet = load_unet(golden)
        torch.manual_seed(11)
        add_lora(unet, rank=4, seed=seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(11)))
        states.append(lora_state(unet))
    first, same, other = states
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    a = torch.cat([v.reshape(-1) for k, v in first.items() if ".lora_A." in k])
    assert float(a.std()) == pytest.approx(1 / 4, rel=0.05)
    assert all(not v.any() for k, v in first.items() if ".lora_B." in k)


def test_a_fresh_lora_changes_no_bit_of_the_output(golden, base):
    unet = load_unet(golden)
    add_lora(unet, rank=4)
    assert torch.equal(output(unet), output(base))


def test_inside_reference_the_base_model_answers_and_afterwards_the_lora_is_back(trained, base):
    before = output(trained)
    with reference(trained):
        inside = output(trained)
        assert not inside.requires_grad
    assert torch.equal(inside, output(base))
    assert torch.equal(output(trained), before) and not torch.equal(before, inside)
    assert all(p.requires_grad for p in lora_parameters(trained))


def test_no_gradient_can_be_computed_inside_reference(trained):
    field = Field(problem(trained))
    with pytest.raises(RuntimeError, match="inside reference"), reference(trained):
        gradients(field, trainable(trained))


def test_a_graph_from_outside_cannot_be_back_propagated_inside_reference(trained):
    loss = output(trained).square().mean()
    with pytest.raises(RuntimeError, match="inside reference"), reference(trained):
        loss.backward()
    trained.zero_grad()
    output(trained).square().mean().backward()
    assert all(p.grad is not None for p in lora_parameters(trained))
    trained.zero_grad()


def test_no_graph_can_be_built_inside_reference(trained):
    with pytest.raises(RuntimeError, match="inside reference"), reference(trained), torch.enable_grad():
        weight = torch.ones(3, requires_grad=True)
        (weight * weight).sum()


def test_reference_does_not_nest_and_recovers_from_an_error_within(trained):
    before = output(trained)
    with pytest.raises(ZeroDivisionError), reference(trained):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError), reference(trained), reference(trained):
        pass
    assert torch.equal(output(trained), before)


def test_a_checkpoint_goes_back_into_the_same_parameters(golden, trained):
    unet = load_unet(golden)
    add_lora(unet, rank=4, alpha=8, seed=9)
    own = lora_parameters(unet)
    load_lora_state(unet, lora_state(trained))
    assert all(a is b for a, b in zip(own, lora_parameters(unet), strict=True))
    assert torch.equal(output(unet), output(trained))
    with pytest.raises(UserError, match="does not fit"):
        load_lora_state(unet, dict(list(lora_state(trained).items())[1:]))


def test_a_second_lora_and_targets_that_match_nothing_are_refused(golden, trained):
    with pytest.raises(UserError, match="already"):
        add_lora(trained)
    with pytest.raises(UserError, match="no layer"):
        add_lora(load_unet(golden), targets=["to_nothing"])


def test_the_norm_of_the_update_is_that_of_the_dense_matrices(trained):
    named, total = named_lora_parameters(trained), 0.0
    for name, a in named.items():
        if ".lora_A." in name:
            dense = 2.0 * named[name.replace(".lora_A.", ".lora_B.")] @ a  # alpha / rank = 2
            total += float(dense.square().sum())
    assert lora_norm(trained) == pytest.approx(math.sqrt(total), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", ["blueprint", "highres"])
def test_the_first_step_has_z_exactly_zero_and_a_gradient(golden, stage, precision, micro_batch):
    autocast = torch.bfloat16 if precision == "bf16" else None
    unet = load_unet(golden).to(autocast or torch.float32)
    add_lora(unet, rank=4)
    windows = (Window(0, 16, 0, 32),) if stage == "blueprint" else None
    pair = problem(unet, windows=windows, micro_batch=micro_batch, autocast=autocast)
    result = pair_gradients(pair, trainable(unet), LossSettings())
    assert result.metrics["z"] == 0.0
    assert result.loss == pytest.approx(math.log(2), abs=1e-15)
    assert result.metrics["kl_proxy_w"] == result.metrics["kl_proxy_l"] == 0.0
    moved = {n for n, g in zip(named_lora_parameters(unet), result.grads, strict=True) if g.any()}
    assert moved and all(".lora_B." in name for name in moved)  # dE/dA = 0 while B = 0
    assert result.finite and {g.dtype for g in result.grads} == {torch.float32}


def test_gradient_checkpointing_changes_nothing(trained):
    field = Field(problem(trained))
    plain = gradients(field, trainable(trained))
    trained.enable_gradient_checkpointing()
    trained.train()
    try:
        again = gradients(field, trainable(trained))
    finally:
        trained.disable_gradient_checkpointing()
        trained.eval()
    for a, b in zip(plain[0].grads, again[0].grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-9)
