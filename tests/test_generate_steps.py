"""The pieces that methods are put together from: conditions per window, canvases that move, gradient."""

from dataclasses import replace

import pytest
import torch

from generate.canvas.noise import initial_noise
from generate.canvas.plan import Canvas
from generate.canvas.windows import Window
from generate.images.vae import decode_latents, decode_windows
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.prompts import PromptEmbeddings
from generate.models.schedulers import make_schedule
from generate.sampling.combine import combine, cut
from generate.sampling.conditions import Conditions
from generate.sampling.fusion import Fusion
from generate.sampling.guide import guide
from generate.sampling.loop import Moment, denoise
from generate.sampling.predict import Prediction, predicting
from generate.sampling.steppers import CanvasStepper, WindowStepper
from tests.small_scrolls import SMALL, distance, family, small_request
from tests.test_generate_mad import mad_prediction

ROUNDING = 5e-5
MOMENT = Moment(0, 2, torch.tensor(501))
PROMPTS = ("a pine forest", "a harbour at dusk")


def beside(one: PromptEmbeddings, other: PromptEmbeddings) -> PromptEmbeddings:
    """Two prompts as the rows of one object."""
    pairs = [
        (one.prompt_embeds, other.prompt_embeds),
        (one.negative_prompt_embeds, other.negative_prompt_embeds),
        (one.pooled, other.pooled),
        (one.negative_pooled, other.negative_pooled),
    ]
    return PromptEmbeddings(*(None if a is None else torch.cat([a, b]) for a, b in pairs))


def setting(model):
    """(method, canvas, its windows, the embeddings of each prompt)."""
    method = MultiDiffusion(model, Config(**SMALL))
    canvas = method.canvas(small_request())
    windows = cut(canvas, initial_noise(0, (1, 4, canvas.height, canvas.width)))
    return method, canvas, windows, [method.encode(small_request(prompt=text)) for text in PROMPTS]


@torch.no_grad()
def predicted(model, conditions, canvas, windows, **options):
    with predicting(model, conditions, guidance_scale=5.0, **options) as predict:
        return predict(windows, MOMENT, canvas)


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-sd"])
@pytest.mark.parametrize("window_batch", [1, 3, 4])
def test_each_window_is_told_its_own_prompt(golden, name, window_batch):
    model = family(golden, name)
    method, canvas, windows, texts = setting(model)
    both = method.conditions(beside(*texts), rows=lambda canvas: (0, 0, 1, 1))
    mixed = predicted(model, both, canvas, windows, window_batch=window_batch)
    alone = [predicted(model, method.conditions(text), canvas, windows) for text in texts]
    for half in ("unconditional", "conditional"):
        expected = torch.cat([getattr(alone[0], half)[:2], getattr(alone[1], half)[2:]])
        assert distance(getattr(mixed, half), expected) < ROUNDING
    assert distance(alone[0].conditional, alone[1].conditional) > 1e-3


def test_merged_attention_tells_each_window_its_own_prompt_too(golden):
    model = family(golden)
    _, _, _, texts = setting(model)
    both = beside(*texts)
    alone = [mad_prediction(model, embeddings=text) for text in texts]
    for row, expected in enumerate(alone):
        ours = mad_prediction(model, embeddings=both, rows=lambda canvas, row=row: (row,) * 4)
        assert distance(ours, expected) < ROUNDING
    # Rows that repeat go through windows' prompts instead of the canvas's: the same numbers.
    twice = beside(texts[0], texts[0])
    assert (
        distance(mad_prediction(model, embeddings=twice, rows=lambda canvas: (0, 1, 0, 1)), alone[0])
        < ROUNDING
    )


def test_a_single_half_is_evaluated_on_request(golden):
    model = family(golden)
    method, canvas, windows, texts = setting(model)
    conditions = method.conditions(texts[0])
    with torch.no_grad(), predicting(model, conditions, guidance_scale=5.0) as predict:
        both = predict(windows, MOMENT, canvas)
        alone = predict(windows, MOMENT, canvas, ("unconditional",))
    assert predict.evaluations == 12
    assert alone.conditional is None
    assert distance(alone.unconditional, both.unconditional) < ROUNDING


def test_a_gradient_flows_through_both_halves_and_through_the_preview(golden):
    model = family(golden)
    method, canvas, windows, texts = setting(model)
    schedule = make_schedule(model, "ddim", 4)
    moment = Moment(0, 4, schedule.timesteps[0])

    def brightness(view):
        with predicting(model, method.conditions(texts[0]), guidance_scale=5.0) as predict:
            noise = guide(predict(schedule.scaled(view, moment.timestep), moment, canvas), 5.0)
        clean = schedule.clean(noise, moment.timestep, view)
        return decode_windows(model.vae, clean[:1]).mean()

    view = windows.clone().requires_grad_()
    slope = torch.autograd.grad(brightness(view), view)[0]
    assert float(slope[0].abs().max()) > 0
    assert float(slope[1:].abs().max()) == 0  # only the first window was decoded
    along = torch.zeros_like(windows)
    along[0] = slope[0] / slope[0].norm()
    with torch.no_grad():
        step = 0.002
        measured = (brightness(windows + step * along) - brightness(windows - step * along)) / (2 * step)
    assert float(measured) == pytest.approx(float(slope[0].norm()), rel=0.05)


def test_a_preview_with_gradient_shows_what_decoding_without_shows(golden):
    model = family(golden)
    latents = initial_noise(0, (2, 4, 8, 8))
    torch.testing.assert_close(
        decode_windows(model.vae, latents).detach(), decode_latents(model.vae, latents), rtol=1e-4, atol=1e-5
    )


def test_the_loop_runs_without_gradient_and_a_step_may_turn_it_on(golden):
    schedule, seen = make_schedule(family(golden), "ddim", 2), []

    def advance(latents, moment):
        seen.append(torch.is_grad_enabled())
        with torch.enable_grad():
            seen.append(torch.is_grad_enabled())
        return schedule.step(torch.zeros_like(latents), moment.timestep, latents)

    denoise(advance, torch.zeros(1, 4, 8, 8), schedule)
    assert seen == [False, True] * 2


def test_windows_that_move_are_cut_told_and_pasted_where_they_lie(golden):
    model = family(golden)
    schedule = make_schedule(model, "ddim", 3)
    weights = torch.ones(8, 8)
    places = [[Window(0, 8, x, x + 8) for x in range(start, 16 + start, 8)] for start in (0, 4, 6)]
    canvases = [Canvas(8, 16, tuple(place), weights, factor=8) for place in places]
    told = []

    def sizes(canvas):
        told.append(canvas)
        return torch.zeros(2, 6)

    text = PromptEmbeddings(torch.zeros(1, 77, 8), torch.zeros(1, 77, 8))
    conditions = Conditions(text, sizes=sizes)

    def predict(windows, moment, canvas):
        conditions.of(canvas, range(2), ("conditional",), None)
        assert torch.equal(windows, cut(canvas, seen[-1]))
        return Prediction(
            None, windows
        )  # the prediction is the latents: every canvas is one factor times them

    seen = [initial_noise(0, (1, 4, 8, 16))]
    fusion = Fusion(lambda index: canvases[index], schedule, predict, CanvasStepper(schedule), 1.0)
    denoise(fusion, seen[0], schedule, on_step=lambda moment, latents: seen.append(latents))
    assert told == canvases
    still = make_schedule(model, "ddim", 3)
    expected = seen[0]
    for t in still.timesteps:
        expected = still.step(expected, t, expected)
    assert distance(seen[-1], expected) < 1e-5


def test_combining_cuts_gives_the_canvas_back(golden):
    _, canvas, windows, _ = setting(family(golden))
    latents = initial_noise(0, (1, 4, canvas.height, canvas.width))
    assert distance(combine(canvas, windows), latents) < 1e-6


class Moving(MultiDiffusion):
    """MultiDiffusion whose windows lie elsewhere at every second step."""

    def canvas_at(self, run, index):
        shift = 4 * (index % 2)
        moved = (Window(w.y0, w.y1, w.x0 + shift, w.x1 + shift) for w in run.canvas.windows)
        return replace(run.canvas, windows=tuple(moved))


class Apart(MultiDiffusion):
    """MultiDiffusion as published: every window takes the step by itself."""

    def stepper(self, run):
        return WindowStepper(run.schedule)


def test_a_method_replaces_the_part_that_it_names(golden):
    model = family(golden)
    settings = {"window": 128, "stride": 64, "wrap": True}
    request = small_request(steps=3)
    plain, moving, apart = (
        method(model, Config(**settings)).sample(request).latents
        for method in (MultiDiffusion, Moving, Apart)
    )
    assert distance(apart, plain) < ROUNDING
    assert distance(moving, plain) > 1e-3
