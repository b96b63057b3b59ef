"""Windows on transformers: one canvas step is the average of window steps, and places are told as asked."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from drspo.errors import UserError
from generate.methods.drspo.two_stage import DRSPO
from generate.models.denoisers.denoiser import Condition
from generate.models.denoisers.flux import pack, positions, unpack
from generate.models.family import load_family
from generate.models.schedulers import make_schedule
from generate.program.cost import rehearse
from generate.request import Request, build_generator, settings_of
from tests.tiny_transformers import tiny, tiny_flux_controlnet

KINDS = ("sd3", "flux", "pixart-sigma")
SMALL = {"window": 128, "stride": 64}


@lru_cache
def _family(kind, golden):
    return load_family(str(tiny(kind, golden)), device="cpu")


def _request(**changes) -> Request:
    told = {
        "prompt": "a misty river",
        "height": 128,
        "width": 256,
        "steps": 2,
        "seed": 3,
        "guidance_scale": 3.0,
    }
    return Request(**(told | changes))


def _made(kind, golden, method="multidiffusion", request=None, **settings):
    generator = build_generator(method, _family(kind, golden), settings)
    return generator.generate([request or _request()])[0]


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_window_as_large_as_the_canvas_is_direct_sampling(kind, golden):
    request = _request(width=128)
    windowed = _made(kind, golden, request=request, **SMALL)
    assert torch.equal(windowed.latents, _made(kind, golden, "direct", request).latents)


@pytest.mark.parametrize("kind", KINDS)
def test_one_canvas_step_is_the_average_of_window_steps(kind, golden):
    """Each window steps by itself with its own copy of the scheduler; what they agree on is averaged."""
    family, request = _family(kind, golden), _request(steps=3)
    multi = build_generator("multidiffusion", family, SMALL)
    embeddings = multi.encode(request)
    starts, canvas = (0, 8, 16), torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(3))
    latents = canvas.clone()
    schedules = [make_schedule(family, "checkpoint", 3, (16, 16)) for _ in starts]
    with torch.no_grad():
        for timestep in schedules[0].timesteps:
            total, count = torch.zeros_like(latents), torch.zeros(32)
            for start, schedule in zip(starts, schedules, strict=True):
                view = latents[..., start : start + 16]
                guided = _guided(family, embeddings, view, timestep, request.guidance_scale)
                total[..., start : start + 16] += schedule.step(guided, timestep, view)
                count[start : start + 16] += 1
            latents = total / count
    ours = multi.generate([request])[0].latents
    assert float((ours - latents[0]).abs().max()) < 1e-5 * float(latents.abs().max())


def _guided(family, embeddings, view, timestep, scale):
    denoiser = family.denoiser
    told = [
        (embeddings.negative_prompt_embeds, embeddings.negative_pooled, embeddings.negative_mask),
        (embeddings.prompt_embeds, embeddings.pooled, embeddings.mask),
    ]
    guidance = scale if denoiser.embeds_guidance else None
    with denoiser.attending():
        without, given = (
            denoiser(view, timestep, Condition(text, pooled, mask, guidance=guidance))
            for text, pooled, mask in told
        )
    return given if denoiser.embeds_guidance else without + scale * (given - without)


def test_a_network_that_is_told_the_scale_is_evaluated_once_and_others_twice(golden):
    counted = {kind: _made(kind, golden, **SMALL).facts["unet_evaluations"] for kind in KINDS}
    assert counted == {"flux": 3 * 2, "sd3": 3 * 2 * 2, "pixart-sigma": 3 * 2 * 2}


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_windows_may_have_the_canvas_s_positions_or_their_own(kind, golden):
    apart = [_made(kind, golden, time_ids=mode, **SMALL).latents for mode in ("window", "crop")]
    assert float((apart[0] - apart[1]).abs().max()) > 1e-4
    request = _request(width=128)
    same = [
        _made(kind, golden, request=request, time_ids=mode, **SMALL).latents for mode in ("window", "crop")
    ]
    assert torch.equal(*same)


@torch.no_grad()
def test_sd3s_windows_read_the_rows_of_the_canvas(golden):
    """A window's prediction with canvas positions is that of a network whose table begins there."""
    family = _family("sd3", golden)
    embed, denoiser = family.transformer.pos_embed, family.denoiser
    text, pooled, view = torch.randn(1, 7, 32), torch.randn(1, 32), torch.randn(1, 4, 16, 16)
    sizes = torch.tensor([[128.0, 256.0, 0.0, 64.0, 128.0, 128.0]])
    with denoiser.attending():
        ours = denoiser(view, torch.tensor(500.0), Condition(text, pooled, sizes=sizes))
    side, before = 24, embed.pos_embed
    try:
        # The canvas of 8 x 16 tokens lies in the middle; the window's own place would be columns 8 to 16.
        embed.pos_embed = before.unflatten(1, (side, side)).roll(8 - 4 - 4, dims=2).flatten(1, 2)
        with denoiser.attending():
            theirs = denoiser(view, torch.tensor(500.0), Condition(text, pooled))
    finally:
        embed.pos_embed = before
    assert torch.equal(ours, theirs)
    assert "cropped_pos_embed" not in vars(embed)


def test_flux_packs_squares_of_four_as_its_pipeline_does(golden):
    pipe = _family("flux", golden).pipe
    latents = torch.randn(2, 4, 6, 8)
    assert torch.equal(pack(latents), pipe._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(latents), 6, 8), latents)
    assert torch.equal(positions(3, 4), pipe._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32))


def test_a_window_that_is_told_its_place_must_lie_on_the_grid_of_tokens(golden):
    with pytest.raises(UserError, match="grid of 16 pixels"):
        _made("flux", golden, window=128, stride=40, time_ids="crop")


def test_pixart_cannot_be_told_where_a_window_lies(golden):
    with pytest.raises(UserError, match="scales its positions"):
        _made("pixart-sigma", golden, time_ids="crop", **SMALL)


def test_a_window_must_be_one_that_the_model_can_paint(golden):
    with pytest.raises(UserError, match="multiples of 16"):
        _made("sd3", golden, window=120, stride=40)


def _drspo(family, **control):
    settings = {"windows": SMALL, "strength": 0.7, "control": control}
    return DRSPO(family, settings_of("drspo", settings))


def test_drspo_on_flux_draws_a_blueprint_and_follows_its_lines(golden, tmp_path):
    control = tiny_flux_controlnet(golden, tmp_path)
    options = {"controlnet": True, "controlnet_source": str(control), "conditioning": "canny"}
    family = load_family(str(tiny("flux", golden)), device="cpu", **options)
    request = _request(steps=4)
    lines = {"low": 1, "high": 2}
    guided = _drspo(family, scale=1.0, lines=lines).generate([request])[0]
    assert guided.facts["control_evaluations"] == 3 * 3 and guided.image.size == (256, 128)
    assert guided.extras["blueprint"].size == (128, 64)
    free = _drspo(family, scale=0.0, lines=lines).generate([request])[0]
    without = _drspo(family, enabled=False).generate([request])[0]
    assert torch.allclose(free.latents, without.latents, atol=1e-5)
    assert float((guided.latents - without.latents).abs().max()) > 1e-3


def test_drspo_on_sd3_follows_its_blueprint_alone(golden):
    made = _drspo(_family("sd3", golden), enabled=False).generate([_request(steps=4)])[0]
    assert made.facts["steps"] == 3 and "lines" not in made.extras
    with pytest.raises(UserError, match="no ControlNet guides the windows") as refused:
        load_family(str(tiny("sd3", golden)), device="cpu", controlnet=True)
    assert "no-enabled" in refused.value.hint


def test_a_controlnet_of_another_family_is_refused(golden, tmp_path):
    control = tiny_flux_controlnet(golden, tmp_path)
    with pytest.raises(UserError, match="FluxControlNetModel, which cannot be used here"):
        load_family(
            str(golden / "models" / "tiny-sdxl"), device="cpu", controlnet=True,
            controlnet_source=str(control), conditioning="canny",
        )  # fmt: skip


def test_mad_is_for_unets(golden):
    with pytest.raises(UserError, match="merges the attention of UNets"):
        build_generator("mad", _family("sd3", golden), SMALL).check([_request()])


def test_a_prompt_beyond_the_longest_encoder_is_refused(golden):
    long = "mist " * 200
    with pytest.raises(UserError, match="longer than the text encoders' 256 tokens"):
        _made("sd3", golden, request=_request(prompt=long), **SMALL)
    cut = _made("sd3", golden, request=_request(prompt=long), long_prompt="truncate", **SMALL)
    assert cut.image.size == (256, 128)


@pytest.mark.parametrize(("kind", "each"), [("flux", 1), ("sd3", 2)])
def test_a_plan_counts_the_evaluations_of_windows_packed_or_not(kind, each, golden):
    family, request = _family(kind, golden), _request(steps=4)
    plan = rehearse(build_generator("multidiffusion", family, SMALL), family, request)
    assert plan.evaluations == {"transformer": {(16, 16): 3 * 4 * each}}
