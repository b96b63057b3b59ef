"""SpotDiffusion, TwinDiffusion and guided, variance-corrected fusion: parity, and what each promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from drspo.errors import UserError
from generate import GENERATORS
from generate.canvas.windows import Window
from generate.catalogue import CATALOGUE, SAME
from generate.methods import gvcf, spotdiffusion, twindiffusion
from generate.methods.gvcf import GVCF, aligned, correction, posterior
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.methods.spotdiffusion import SpotDiffusion
from generate.methods.twindiffusion import TwinDiffusion, crop_fusion, crossed
from generate.models.schedulers import make_schedule
from generate.models.specs import MODELS
from generate.program.command import main
from generate.request import build_generator
from generate.sampling.steppers import WindowStepper
from tests import recordings
from tests.small_scrolls import distance, family
from tests.test_generate_parity import TOLERANCE, embeddings, request

SPOT = [case for case in recordings.cases("spotdiffusion") if "uncovered" not in case.name]
TWIN, FUSION = recordings.cases("twindiffusion"), recordings.cases("gvcf")


def sampled(method, settings, tensors):
    seen = []
    final = method.sample(
        request(settings),
        embeddings=embeddings(tensors),
        latents=tensors.get("init_latents", tensors.get("init_latents_scaled")),
        callback=lambda step: seen.append(step.latents),
    ).latents
    for row, index in enumerate(settings["latents_per_step_indices"]):
        yield seen[index], tensors["latents_per_step"][row]
    yield final, tensors["final_latents"]


def test_recorded_runs_are_found():
    assert (len(SPOT), len(TWIN), len(FUSION)) == (1, 2, 3)


@pytest.mark.parametrize("case", SPOT, ids=str)
def test_spotdiffusion_draws_the_shifts_of_the_authors_and_paints_their_scroll(golden, case):
    settings, tensors = recordings.load(case)
    method = SpotDiffusion(family(golden, settings["model"]), spotdiffusion.Config(window=512, rotate=True))
    asked, canvas = request(settings), method.canvas(request(settings))
    turns = method._turns(asked, canvas, settings["steps"])
    assert [(b - a) % canvas.width for a, b in zip(turns, turns[1:], strict=False)] == [
        shift % canvas.width for shift in settings["shifts"]
    ]
    *_, (final, recorded) = sampled(method, settings, tensors)
    assert distance(final, recorded) <= TOLERANCE


@pytest.mark.parametrize("case", TWIN, ids=str)
def test_twindiffusion_equals_the_recorded_run(golden, case):
    settings, tensors = recordings.load(case)
    config = twindiffusion.Config(
        window=settings["window"] * 8, stride=settings["stride"] * 8, lam=settings["lam"],
        cross_time=settings["cross_time"], scheduler="ddim", time_ids="scroll", edge="uncovered",
    )  # fmt: skip
    method = TwinDiffusion(family(golden, settings["model"]), config)
    canvas = method.canvas(request(settings))
    for index, views in enumerate(settings["views_cycle"]):
        stride = settings["stride"] // settings["cross_time"]
        assert crossed(canvas, index * stride).windows == tuple(Window(*view) for view in views)
    for ours, theirs in sampled(method, settings, tensors):
        assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("case", FUSION, ids=str)
def test_every_fusion_equals_its_recorded_run_from_the_seed_alone(golden, case, monkeypatch):
    monkeypatch.setattr(gvcf, "FLOOR", 0.0)
    correction.cache_clear()
    settings, tensors = recordings.load(case)
    base = family(golden, settings["model"])
    told = replace(
        base,
        scheduler_config=base.scheduler_config
        | {"steps_offset": settings["scheduler_config"]["steps_offset"]},
    )
    config = gvcf.Config(
        window=settings["window"] * 8, stride=settings["stride_px"], fusion=settings["step_func"],
        style=settings["slerp_alpha"], scheduler="own", edge="uncovered",
    )  # fmt: skip
    method = GVCF(told, config)
    if settings["step_func"] == "gf":  # whose first pixel has no weight there and is set to 0
        monkeypatch.setattr(GVCF, "stepper", lambda _, run: WindowStepper(run.schedule))
    for ours, theirs in sampled(method, settings, tensors):
        assert distance(ours, theirs) <= TOLERANCE
    if settings["slerp_alpha"]:
        alone = method.sample(request(settings), embeddings=embeddings(tensors)).latents
        assert distance(alone, tensors["final_latents"]) <= TOLERANCE


def small(method, golden, model="tiny-sd", **settings):
    return method(family(golden, model), method.config_class(window=64, **settings))


def asked(**changes):
    told = {"prompt": "a river", "negative": "", "height": 64, "width": 192, "seed": 3, "steps": 3}
    return request(told | {"guidance_scale": 4.0} | changes)


def test_turned_back_and_left_turned_are_one_scroll(golden):
    still = small(SpotDiffusion, golden).sample(asked()).latents
    turned = small(SpotDiffusion, golden, rotate=True).sample(asked())
    assert torch.equal(still.roll(-turned.facts["rotated_pixels"] // 8, -1), turned.latents)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "unipc"])
def test_the_history_of_a_sampler_does_not_move_with_the_windows(golden, scheduler):
    """Were every latent predicted alike wherever its window lies, moving windows would change nothing."""
    moving, still = (
        small(SpotDiffusion, golden, scheduler=scheduler),
        small(MultiDiffusion, golden, wrap=True),
    )
    still.config = replace(still.config, scheduler=scheduler, stride=64)
    for method in (moving, still):
        method.family = replace(method.family, unet=Pointwise(method.family.unet))
    assert torch.allclose(moving.sample(asked()).latents, still.sample(asked()).latents, atol=1e-4)


class Pointwise(torch.nn.Module):
    """A network that answers every latent by itself."""

    def __init__(self, unet):
        super().__init__()
        self.config, self.attn_processors = unet.config, unet.attn_processors
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def set_attn_processor(self, processors):
        pass

    def forward(self, sample, **_told):
        return (torch.tanh(sample),)


def test_crop_fusion_passes_seams_on_from_left_to_right():
    windows = (Window(0, 1, 0, 4), Window(0, 1, 2, 6), Window(0, 1, 4, 8))
    latents = torch.tensor([0.0, 1.0, 3.0])[:, None, None, None].expand(3, 1, 1, 4)
    fused = crop_fusion(windows, latents, 1.0)[:, 0, 0]
    assert fused.tolist() == [[0, 0, 0, 0], [0.5, 0.5, 1, 1], [2, 2, 3, 3]]
    assert torch.equal(crop_fusion(windows, latents, 0.0)[1, 0, 0], torch.tensor([0.0, 0, 1, 1]))


def test_without_fusion_and_crossing_twindiffusion_is_multidiffusion(golden):
    alone = small(TwinDiffusion, golden, lam=1e12, cross_time=1, stride=32)
    plain = small(MultiDiffusion, golden, stride=32)
    assert distance(alone.sample(asked()).latents, plain.sample(asked()).latents) <= 1e-4


def test_fused_noise_has_the_variance_of_a_windows_noise(golden):
    method = small(GVCF, golden, stride=16, wrap=True)
    canvas = method.canvas(asked())
    drawn = torch.randn(4000, len(canvas.windows), 8, 8, generator=torch.Generator().manual_seed(0))
    combined = torch.cat([gvcf.combine(canvas, each[:, None]) for each in drawn])
    assert (combined * correction(canvas)).std(0).sub(1).abs().max() < 0.06
    assert combined.std(0).max() < 0.8  # as it would be without


def test_the_posterior_is_that_of_diffusers_ddpm(golden):
    schedule = make_schedule(family(golden, "tiny-sd"), "ddpm", 4)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    prediction = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    levels = schedule.scheduler.alphas_cumprod.double()
    for timestep, after in zip(schedule.timesteps, [*schedule.timesteps[1:], None], strict=True):
        clean = schedule.clean(prediction, timestep, latents)
        following = 1.0 if after is None else float(levels[int(after)])
        mean, sigma = posterior(clean, latents, float(levels[int(timestep)]), following)
        drawn = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        if after is None:
            drawn = torch.zeros_like(drawn)
        theirs = schedule.scheduler.step(
            prediction, timestep, latents, generator=torch.Generator().manual_seed(5), return_dict=False
        )[0]
        assert torch.allclose(mean + sigma * drawn, theirs, atol=1e-4)


def test_style_alignment_turns_noise_towards_one_window():
    noise, tile = torch.randn(1, 4, 8, 20), torch.randn(4, 8, 8)
    assert torch.allclose(aligned(noise, tile, 0.0), noise, atol=1e-5)
    whole = aligned(noise, tile, 1.0)
    assert torch.allclose(whole[..., :8], whole[..., 8:16], atol=1e-5)
    assert aligned(noise, tile, 0.4).std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("method", "settings", "changes", "said"),
    [
        (SpotDiffusion, {"stride": 32}, {}, "no choice of stride"),
        (SpotDiffusion, {}, {"height": 128}, "sideways only"),
        (SpotDiffusion, {}, {"width": 200}, "side by side"),
        (TwinDiffusion, {"wrap": True}, {}, "no choice of wrap"),
        (TwinDiffusion, {}, {"height": 128}, "in one row"),
        (TwinDiffusion, {"cross_time": 99}, {}, "more than the"),
        (TwinDiffusion, {"scheduler": "dpmpp_2m"}, {}, "these windows move"),
        (GVCF, {"weights": "gaussian"}, {}, "guidance map"),
        (GVCF, {"scheduler": "euler"}, {}, "corrects the noise of DDPM"),
        (GVCF, {"fusion": "gf", "scheduler": "ddpm"}, {}, "cannot take one step"),
        (MultiDiffusion, {"scheduler": "ddpm"}, {}, "cannot take one step"),
    ],
)
def test_what_a_method_cannot_do_is_one_message(golden, method, settings, changes, said):
    with pytest.raises(UserError, match=said):
        small(method, golden, **settings).check([asked(**changes)])


@pytest.mark.parametrize("method", [SpotDiffusion, TwinDiffusion, GVCF])
def test_sdxl_is_painted_too_and_a_scroll_is_a_function_of_its_seed(golden, method):
    made = [small(method, golden, "tiny-sdxl").generate([asked(seed=seed)])[0] for seed in (3, 3, 4)]
    assert made[0].image.size == (192, 64)
    assert torch.equal(made[0].latents, made[1].latents) and not torch.equal(made[0].latents, made[2].latents)


def test_the_defaults_of_multidiffusion_are_untouched():
    assert Config() == MultiDiffusion.config_class()


@pytest.mark.parametrize("name", sorted(set(GENERATORS) - set(SAME) - {"drspo", "elasticdiffusion"}))
def test_the_listed_cost_is_that_of_the_methods_windows(golden, name):
    model = family(golden, "tiny-sdxl")
    model = replace(model, spec=replace(MODELS["sdxl"], base="none"))
    method = build_generator(name, model)
    asked = request(
        {
            "prompt": "",
            "negative": "",
            "height": 1024,
            "width": 4096,
            "seed": 0,
            "steps": 50,
            "guidance_scale": 5,
        }
    )
    assert CATALOGUE[name].evaluations == 2 * len(method.canvas(asked).windows) * len(method.schedule(asked))


def test_every_method_is_listed_once_with_all_that_a_reader_asks(capsys):
    assert set(CATALOGUE) | set(SAME) == set(GENERATORS)
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name, entry in CATALOGUE.items():
        assert name in shown and entry.licence in shown and f"{entry.evaluations:,} evaluations" in shown
