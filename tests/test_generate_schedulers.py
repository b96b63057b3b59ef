"""One scheduler step for the canvas equals the windows' own steps, for schedulers that are let through."""

import pytest
import torch

from drspo.errors import UserError
from generate.canvas.blend import blend, crop, window_weights
from generate.canvas.windows import plan_windows
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.methods.sdxl import SDXL
from generate.methods.sdxl import Config as SDXLConfig
from generate.models.schedulers import SCHEDULERS, make_scheduler, require_linear
from generate.request import initial_noise
from generate.sampling.denoising import denoise
from tests.small_scrolls import SMALL, distance, family, small_request

LINEAR = ("ddim", "euler", "pndm", "dpmpp_2m", "unipc")
WINDOWS = plan_windows(8, 20, 8, 4)
WEIGHTS = window_weights("feathered", 8, 8)


def window_prediction(view, row):
    """A different answer in every window, not linear in its input, as a network's would be."""
    return torch.tanh(view * (1 + 0.1 * row)) + 0.05 * row


def canvas_prediction(latents, timestep, index):
    crops = crop(latents, WINDOWS)
    rows = torch.stack([window_prediction(view, row) for row, view in enumerate(crops)])
    return blend(rows, WINDOWS, WEIGHTS, 8, 20)


def step_every_window(model, name, latents, steps):
    """MultiDiffusion as published: each window keeps its own scheduler, their x_{t-1} are averaged."""
    schedulers = [make_scheduler(model, name, steps) for _ in WINDOWS]
    for t in schedulers[0].timesteps:
        views = []
        for row, (scheduler, view) in enumerate(zip(schedulers, crop(latents, WINDOWS), strict=True)):
            noise = window_prediction(scheduler.scale_model_input(view, t), row)
            views.append(scheduler.step(noise, t, view).prev_sample)
        latents = blend(torch.stack(views), WINDOWS, WEIGHTS, 8, 20)
    return latents


@pytest.mark.parametrize("name", LINEAR)
def test_one_step_on_the_canvas_equals_averaged_window_steps(golden, name):
    model = family(golden)
    scheduler = make_scheduler(model, name, 7)
    require_linear(scheduler)
    start = initial_noise(0, (1, 4, 8, 20)) * scheduler.init_noise_sigma
    ours = denoise(canvas_prediction, start, scheduler)
    assert distance(ours, step_every_window(model, name, start, 7)) < 1e-5


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - set(LINEAR)))
def test_schedulers_that_draw_noise_are_refused_on_the_canvas_with_the_reason(golden, name):
    method = MultiDiffusion(family(golden), Config(**SMALL, scheduler=name))
    with pytest.raises(UserError, match="draws noise at every step"):
        method.generate([small_request()])


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_scheduler_samples_the_whole_canvas_the_same_way_twice(golden, name):
    method = SDXL(family(golden), SDXLConfig(scheduler=name))
    request = small_request(height=64, width=64)
    one, two = (method.sample(request).latents for _ in range(2))
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"clip_sample": True}, "clips"),
        ({"thresholding": True}, "thresholding"),
    ],
)
def test_clipping_and_thresholding_are_refused_with_the_reason(golden, setting, reason):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config({**family(golden).scheduler_config, **setting})
    with pytest.raises(UserError, match=reason):
        require_linear(scheduler)


def test_a_stochastic_solver_variant_is_refused(golden):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(
        family(golden).scheduler_config, algorithm_type="sde-dpmsolver++"
    )
    with pytest.raises(UserError, match="draws noise"):
        require_linear(scheduler)


def test_latents_are_not_clipped_when_the_checkpoint_does_not_say(golden):
    model = family(golden)
    kept = dict(model.scheduler_config)
    try:
        del model.scheduler_config["clip_sample"]
        assert make_scheduler(model, "ddim", 4).config.clip_sample is False
    finally:
        model.scheduler_config.update(kept)


def test_the_checkpoints_own_scheduler_is_used_on_request(golden):
    assert type(make_scheduler(family(golden), "checkpoint", 4)).__name__ == "EulerDiscreteScheduler"
    assert type(make_scheduler(family(golden, "tiny-sd"), "checkpoint", 4)).__name__ == "PNDMScheduler"


def test_a_mistyped_scheduler_is_refused_with_the_nearest_name(golden):
    with pytest.raises(UserError, match="Did you mean 'euler'"):
        make_scheduler(family(golden), "eulr", 4)


def test_too_many_steps_are_refused(golden):
    with pytest.raises(UserError, match="cannot take 2000 steps"):
        make_scheduler(family(golden), "ddim", 2000)


@pytest.mark.parametrize("name", LINEAR)
def test_a_schedule_can_be_entered_in_the_middle(golden, name):
    """The timesteps before the entry are left out and the scheduler does not lose count."""
    model = family(golden)
    scheduler = make_scheduler(model, name, 12)
    seen = []
    denoise(
        lambda x, t, i: seen.append(float(t)) or torch.zeros_like(x),
        torch.zeros(1, 4, 8, 20),
        scheduler,
        begin=6,
    )
    assert seen == [float(t) for t in make_scheduler(model, name, 12).timesteps[6:]]
