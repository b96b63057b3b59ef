"""One scheduler step for the canvas equals the windows' own steps, for schedulers that are let through."""

from dataclasses import replace

import pytest
import torch

from drspo.errors import UserError
from generate.canvas.blend import window_weights
from generate.canvas.noise import initial_noise
from generate.canvas.plan import Canvas
from generate.canvas.windows import plan_windows
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.methods.sdxl import SDXL
from generate.methods.sdxl import Config as SDXLConfig
from generate.models.schedule import Schedule, remaining_steps
from generate.models.schedulers import SCHEDULERS, make_schedule, require_linear
from generate.sampling.combine import combine, cut
from generate.sampling.fusion import Fusion
from generate.sampling.loop import Moment, denoise
from generate.sampling.predict import Prediction
from generate.sampling.steppers import CanvasStepper, WindowStepper
from tests.small_scrolls import SMALL, distance, family, small_request

LINEAR = ("ddim", "euler", "pndm", "dpmpp_2m", "unipc")
CANVAS = Canvas(8, 20, plan_windows(8, 20, 8, 4), window_weights("feathered", 8, 8), factor=8)


def answer(view, row):
    """A different answer in every window, not linear in its input, as a network's would be."""
    return torch.tanh(view * (1 + 0.1 * row)) + 0.05 * row


def predict(windows, moment, canvas):
    return Prediction(None, torch.stack([answer(view, row) for row, view in enumerate(windows)]))


def step_every_window(model, name, latents, steps):
    """MultiDiffusion as published: each window keeps its own scheduler, their x_{t-1} are averaged."""
    schedulers = [make_schedule(model, name, steps).scheduler for _ in CANVAS.windows]
    for t in schedulers[0].timesteps:
        views = []
        for row, (scheduler, view) in enumerate(zip(schedulers, cut(CANVAS, latents), strict=True)):
            noise = answer(scheduler.scale_model_input(view, t), row)
            views.append(scheduler.step(noise, t, view).prev_sample)
        latents = combine(CANVAS, torch.stack(views))
    return latents


@pytest.mark.parametrize("stepper", [CanvasStepper, WindowStepper])
@pytest.mark.parametrize("name", LINEAR)
def test_one_step_on_the_canvas_equals_averaged_window_steps(golden, name, stepper):
    model = family(golden)
    schedule = make_schedule(model, name, 7)
    require_linear(schedule)
    start = schedule.first(initial_noise(0, (1, 4, 8, 20)))
    step = Fusion(lambda index: CANVAS, schedule, predict, stepper(schedule), 1.0)
    assert distance(denoise(step, start, schedule), step_every_window(model, name, start, 7)) < 1e-5


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral"])
def test_windows_that_step_by_themselves_draw_noise_of_their_own(golden, name):
    schedule = make_schedule(family(golden), name, 7)
    noise = torch.Generator().manual_seed(0)
    stepper = WindowStepper(schedule, noise, combine=lambda canvas, windows: windows)
    latents = torch.zeros(1, 4, 8, 20)
    schedule.scaled(latents, schedule.timesteps[0])
    moment = Moment(0, 7, schedule.timesteps[0])
    windows = stepper(CANVAS, torch.zeros(len(CANVAS.windows), 4, 8, 8), latents, moment)
    assert not torch.allclose(windows[0], windows[1])


def test_windows_with_a_history_of_their_own_must_not_move(golden):
    schedule = make_schedule(family(golden), "dpmpp_2m", 7)
    stepper = WindowStepper(schedule)
    moved = replace(CANVAS, windows=plan_windows(8, 20, 8, 6)[: len(CANVAS.windows)])
    zeros, latents = torch.zeros(len(moved.windows), 4, 8, 8), torch.zeros(1, 4, 8, 20)
    stepper(CANVAS, torch.zeros(len(CANVAS.windows), 4, 8, 8), latents, Moment(0, 7, schedule.timesteps[0]))
    with pytest.raises(ValueError, match="must not move"):
        stepper(moved, zeros, latents, Moment(1, 7, schedule.timesteps[1]))


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
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match=reason):
        require_linear(Schedule(scheduler))


def test_a_stochastic_solver_variant_is_refused(golden):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(
        family(golden).scheduler_config, algorithm_type="sde-dpmsolver++"
    )
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match="draws noise"):
        require_linear(Schedule(scheduler))


def test_latents_are_not_clipped_when_the_checkpoint_does_not_say(golden):
    model = family(golden)
    kept = dict(model.scheduler_config)
    try:
        del model.scheduler_config["clip_sample"]
        assert make_schedule(model, "ddim", 4).scheduler.config.clip_sample is False
    finally:
        model.scheduler_config.update(kept)


def test_the_checkpoints_own_scheduler_is_used_on_request(golden):
    assert make_schedule(family(golden), "checkpoint", 4).name == "EulerDiscreteScheduler"
    assert make_schedule(family(golden, "tiny-sd"), "checkpoint", 4).name == "PNDMScheduler"


def test_a_mistyped_scheduler_is_refused_with_the_nearest_name(golden):
    with pytest.raises(UserError, match="Did you mean 'euler'"):
        make_schedule(family(golden), "eulr", 4)


def test_too_many_steps_are_refused(golden):
    with pytest.raises(UserError, match="cannot take 2000 steps"):
        make_schedule(family(golden), "ddim", 2000)


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_perfect_predictor_is_followed_to_its_picture_from_wherever_the_schedule_is_entered(
    golden, name, strength
):
    """The network knows x0: every step keeps to the path, whatever level the latents are at."""
    for model in (family(golden), family(golden, "tiny-sd")):
        schedule = make_schedule(model, name, 20)
        schedule.enter(strength)
        clean, noise = initial_noise(1, (1, 4, 8, 20)), initial_noise(2, (1, 4, 8, 20))
        perfect = Perfect(schedule, clean)
        start = schedule.noised(clean, noise)
        final = denoise(perfect, start, schedule)
        assert perfect.evaluations == len(schedule)
        # A schedule may end a little above zero noise, on the same path.
        end = float(getattr(schedule.scheduler, "final_alpha_cumprod", 1.0))
        expected = end**0.5 * clean + (1 - end) ** 0.5 * noise
        assert distance(final, expected) < 1e-3


class Perfect:
    """One step with the prediction that gives x0 = clean at the level of the latents, as `clean` has it."""

    def __init__(self, schedule, clean):
        self.schedule, self.picture, self.evaluations = schedule, clean, 0

    def __call__(self, latents, moment):
        t = moment.timestep
        self.schedule.scaled(latents, t)
        self.evaluations += 1
        # The estimate of x0 is affine in the prediction: two probes invert it.
        zero = self.schedule.clean(torch.zeros_like(latents), t, latents)
        slope = self.schedule.clean(torch.ones_like(latents), t, latents) - zero
        return self.schedule.step(
            (self.picture - zero) / slope, t, latents, torch.Generator().manual_seed(moment.index)
        )


def test_pndm_takes_its_first_step_twice_wherever_it_begins(golden):
    whole = make_schedule(family(golden), "pndm", 10)
    part = make_schedule(family(golden), "pndm", 10)
    part.enter(0.4)
    assert [int(t) for t in whole.timesteps[:4]] == [901, 801, 801, 701]
    assert [int(t) for t in part.timesteps] == [301, 201, 201, 101, 1]


def test_pndm_with_a_runge_kutta_start_follows_a_perfect_predictor_or_is_refused_in_the_middle(golden):
    model = replace(
        family(golden), scheduler_config={**family(golden).scheduler_config, "skip_prk_steps": False}
    )
    schedule = make_schedule(model, "pndm", 20)
    schedule.enter(1.0)
    clean, noise = initial_noise(1, (1, 4, 8, 20)), initial_noise(2, (1, 4, 8, 20))
    final = denoise(Perfect(schedule, clean), schedule.noised(clean, noise), schedule)
    end = float(schedule.scheduler.final_alpha_cumprod)
    assert distance(final, end**0.5 * clean + (1 - end) ** 0.5 * noise) < 1e-3
    with pytest.raises(UserError, match="cannot start in the middle"):
        schedule.enter(0.5)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_a_schedule_is_entered_above_zero_and_at_most_at_one(golden, strength):
    with pytest.raises(UserError, match="strength"):
        make_schedule(family(golden), "ddim", 10).enter(strength)


def test_steps_that_remain_round_to_the_nearest_and_are_at_least_one():
    assert [remaining_steps(50, s) for s in (0.001, 0.5, 0.7, 1.0)] == [1, 25, 35, 50]
