"""A whole pair: the combined gradient is the gradient of the loss, with every term that settings can add."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from generate.canvas.blend import window_weights
from generate.canvas.windows import Window, plan_windows
from train.engine.field import Field
from train.engine.problem import Problem, Side, Trainable
from train.objective.losses import Context
from train.objective.pair import Reference, pair_errors, pair_gradients, reference_pass
from train.objective.region import choose_windows, region_problem
from train.settings import LossSettings

CONTEXT = Context(snr=0.7, timesteps=1000)


class Adapted(nn.Module):
    """A frozen convolution with a small trainable change that can be switched off."""

    def __init__(self, size=1e-3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"base": (4, 4, 3, 3), "change": (4, 4, 3, 3)}
        base, change = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes.values())
        self.register_buffer("base", 0.1 * base)
        self.change = nn.Parameter(size * change)
        self.on = True

    def forward(self, crops, windows):
        place = torch.tensor([math.cos(w.x0 + w.y0) for w in windows], dtype=crops.dtype)
        kernel = self.base + self.change if self.on else self.base
        return torch.tanh(nn.functional.conv2d(crops, kernel, padding=1) + place[:, None, None, None])

    @contextmanager
    def off(self):
        self.on = False
        with torch.no_grad():
            yield
        self.on = True


def make_problem(net, windows=None, grid=(8, 26)):
    generator = torch.Generator().manual_seed(5)
    winner, loser, noise = (
        torch.randn(1, 4, *grid, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    windows = windows or plan_windows(*grid, 8, 3)
    weights = window_weights("feathered", windows[0].height, windows[0].width)
    return Problem(
        sides=(Side(latents=winner, target=noise), Side(latents=loser, target=noise)),
        windows=windows,
        weights=weights,
        predict=net,
    )


def trainable(net, off=None):
    return Trainable([net.change], off or net.off)


def average(problem, latents):
    height, width = latents.shape[-2:]

    def paste(crop, w):
        return nn.functional.pad(crop, (w.x0, width - w.x1, w.y0, height - w.y1))

    weights = problem.weights.double()
    top = sum(
        paste(weights * problem.predict(latents[..., w.y0 : w.y1, w.x0 : w.x1], [w]), w)
        for w in problem.windows
    )
    return top / sum(paste(weights, w) for w in problem.windows)


def plain_dpo(net, problem, beta, anchor=0.0, sft=0.0):
    """Eq. 19 (and the two anchors) written down in torch and left to autograd."""
    w, l = problem.sides  # noqa: E741
    a_w, a_l = (average(problem, side.latents) for side in (w, l))
    with net.off():
        ref_w, ref_l = (average(problem, side.latents) for side in (w, l))
    d_w = (a_w - w.target).square().mean() - (ref_w - w.target).square().mean()
    d_l = (a_l - l.target).square().mean() - (ref_l - l.target).square().mean()
    loss = -nn.functional.logsigmoid(-(beta / 2) * (d_w - d_l))
    loss = loss + anchor * beta / 2 * (a_w - ref_w).square().mean()
    return loss + sft * beta / 2 * (a_w - w.target).square().mean()


def assert_gradient(result, loss, parameters, tolerance=1e-9):
    expected = torch.autograd.grad(loss, parameters)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    for got, want in zip(result.grads, expected, strict=True):
        assert float((got - want).norm() / want.norm()) < tolerance


@pytest.mark.parametrize("schedule", ["stream", "two_pass", "autograd"])
@pytest.mark.parametrize(("anchor", "sft"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_the_pair_gradient_is_that_of_the_written_loss(schedule, anchor, sft):
    net = Adapted()
    problem = make_problem(net)
    chosen = LossSettings(reference_anchor=anchor, winner_anchor=sft)
    result = pair_gradients(problem, trainable(net), chosen, schedule=schedule)
    assert abs(result.metrics["z"]) > 1e-3
    assert_gradient(result, plain_dpo(net, problem, 5000, anchor, sft), [net.change])


def test_one_window_over_the_scroll_is_plain_diffusion_dpo():
    net = Adapted()
    problem = make_problem(net, windows=(Window(0, 8, 0, 26),))
    result = pair_gradients(problem, trainable(net), LossSettings())
    winner, loser = (net(side.latents, list(problem.windows)) for side in problem.sides)
    with net.off():
        rw, rl = (net(side.latents, list(problem.windows)) for side in problem.sides)

    def mse(x):
        return nn.functional.mse_loss(x, problem.sides[0].target)

    loss = -nn.functional.logsigmoid(-2500 * ((mse(winner) - mse(rw)) - (mse(loser) - mse(rl))))
    assert_gradient(result, loss, [net.change])


def test_the_region_term_over_all_windows_is_eq_23():
    net = Adapted()
    problem = make_problem(net)
    chosen = LossSettings(region_weight=0.4, region_windows="all")
    result = pair_gradients(problem, trainable(net), chosen)
    regions = [plain_dpo(net, region_problem(problem, i), 5000) for i in range(len(problem.windows))]
    loss = plain_dpo(net, problem, 5000) + 0.4 * sum(regions) / len(regions)
    assert_gradient(result, loss, [net.change])
    assert result.metrics["region_loss"] == pytest.approx(
        float(sum(regions).detach()) / len(regions), rel=1e-9
    )


def test_one_random_window_is_an_unbiased_estimate_of_all_of_them():
    net = Adapted()
    problem = make_problem(net)
    one = LossSettings(region_weight=0.4)
    n, seen = len(problem.windows), {}
    for seed in range(60):
        index = choose_windows(n, "one", seed)[0]
        if index not in seen:
            seen[index] = pair_gradients(problem, trainable(net), one, region_seed=seed).grads[0]
    assert len(seen) == n
    everything = replace(one, region_windows="all")
    total = pair_gradients(problem, trainable(net), everything).grads[0]
    mean = torch.stack(list(seen.values())).mean(dim=0)
    assert torch.allclose(mean, total, rtol=1e-9)
    draws = torch.tensor([choose_windows(n, "one", seed)[0] for seed in range(2000)])
    counts = torch.bincount(draws, minlength=n).float() / 2000
    assert float((counts - 1 / n).abs().max()) < 0.04


def test_a_window_in_the_region_term_still_knows_its_place():
    net = Adapted()
    asked = []

    def watch(crops, windows):
        asked.append(windows[0])
        return net(crops, windows)

    problem = replace(make_problem(net), predict=watch)
    region = region_problem(problem, 2)
    pair_errors(region, trainable(net), LossSettings())
    assert set(asked) == {problem.windows[2]}


def test_validation_reports_the_loss_of_training():
    net = Adapted()
    problem = make_problem(net)
    chosen = LossSettings(reference_anchor=0.3)
    trained = pair_gradients(problem, trainable(net), chosen, context=CONTEXT)
    held_out = pair_errors(problem, trainable(net), chosen, context=CONTEXT)
    assert held_out.grads == []
    assert held_out.loss == pytest.approx(trained.loss, rel=1e-12)
    for name in held_out.metrics:
        assert held_out.metrics[name] == pytest.approx(trained.metrics[name], rel=1e-9), name


def test_cached_reference_errors_give_the_same_gradient_without_a_reference_pass():
    net = Adapted()
    problem = make_problem(net)
    seen = reference_pass(Field(problem), trainable(net))
    scalars = Reference(seen.error_w, seen.error_l)

    def never():
        raise AssertionError("the reference ran although its errors were known")

    alone = trainable(net, off=never)
    cached = pair_gradients(problem, alone, LossSettings(), recall=lambda _: scalars)
    fresh = pair_gradients(problem, trainable(net), LossSettings())
    assert torch.equal(cached.grads[0], fresh.grads[0]) and cached.loss == fresh.loss
    with pytest.raises(ValueError, match="average itself"):
        pair_gradients(problem, alone, LossSettings(reference_anchor=1.0), recall=lambda _: scalars)


def test_mapo_never_runs_the_reference():
    net = Adapted()

    def never():
        raise AssertionError("MaPO has no reference")

    result = pair_gradients(
        make_problem(net), trainable(net, off=never), LossSettings(name="mapo"), context=CONTEXT
    )
    assert result.finite and bool(result.grads[0].any())


def test_a_step_along_the_gradient_raises_the_margin_and_the_safeguard_spares_the_winner():
    net = Adapted(size=1e-5)
    problem = make_problem(net)
    start = pair_gradients(problem, trainable(net), LossSettings(name="sdpo"))
    with torch.no_grad():
        net.change -= 1e-9 * start.grads[0]
    after = pair_errors(problem, trainable(net), LossSettings())
    assert after.metrics["z"] > start.metrics["z"]
    assert after.metrics["error_w"] <= start.metrics["error_w"] + 1e-12


def test_an_overflow_is_reported_as_not_finite():
    net = Adapted()
    problem = make_problem(net)
    winner, loser = problem.sides
    broken = replace(problem, sides=(winner, replace(loser, target=torch.full_like(loser.target, math.inf))))
    result = pair_gradients(broken, trainable(net), LossSettings())
    assert not result.finite
    assert pair_gradients(problem, trainable(net), LossSettings()).finite
