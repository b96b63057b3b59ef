"""The windowed gradient engine against plain autograd and closed forms."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generate.canvas.blend import blend
from generate.canvas.windows import Window
from tests.small_scrolls import overlap_counts
from tests.train_scrolls import SCHEDULES, Net, aimed, distance, errors, gradients, grids, make_problem
from train.engine.window_order import window_order

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def plain_gradient(problem, parameters):
    """Plain autograd of E as eqs 4 and 19 write it: pad every crop, weight, sum, divide."""
    groups = window_order(problem.windows, problem.micro_batch).groups
    found = {}
    for group in groups:
        chosen = [problem.windows[i] for i in group]
        crops = torch.cat([problem.sides[0].latents[..., w.y0 : w.y1, w.x0 : w.x1] for w in chosen])
        found.update(zip(group, problem.predict(crops, chosen), strict=True))
    height, width = problem.sides[0].latents.shape[-2:]
    weights = problem.weights.to(problem.sides[0].latents.dtype)

    def paste(crop, w):
        return nn.functional.pad(crop, (w.x0, width - w.x1, w.y0, height - w.y1))

    numerator = sum(paste(weights * found[i], w) for i, w in enumerate(problem.windows))
    average = (numerator / sum(paste(weights, w) for w in problem.windows))[None]
    squares = (average - problem.sides[0].target).square()
    if problem.error_weight == "overlap":
        counts = torch.from_numpy(overlap_counts(problem.windows, height, width)).to(squares)
        squares = squares * counts / counts.mean()
    error = problem.error_scale * squares.mean()
    return error, average, torch.autograd.grad(error, parameters)


def assert_every_schedule_agrees(problem, net):
    parameters, tolerance = list(net.parameters()), TOLERANCE[problem.sides[0].latents.dtype]
    torch.manual_seed(7)
    error, average, expected = plain_gradient(problem, parameters)
    for schedule in SCHEDULES:
        torch.manual_seed(7)
        result = gradients(problem, parameters, schedule)
        assert result.error == pytest.approx(float(error.detach()), rel=tolerance), schedule
        assert distance([result.aggregate], [average.detach()]) < tolerance, schedule
        assert distance(result.grads, expected) < tolerance, schedule


@settings(max_examples=12)
@given(
    shape=grids(),
    kind=st.sampled_from(["uniform", "feathered", "gaussian"]),
    micro_batch=st.integers(1, 4),
    error_weight=st.sampled_from(["uniform", "overlap"]),
    dropout=st.sampled_from([0.0, 0.3]),
    transpose=st.booleans(),
)
def test_every_schedule_equals_plain_autograd(shape, kind, micro_batch, error_weight, dropout, transpose):
    (height, width), window, stride = shape
    grid = (width, height) if transpose else (height, width)
    net = Net(dropout=dropout)
    problem = make_problem(
        net,
        grid,
        window=window,
        stride=stride,
        kind=kind,
        micro_batch=micro_batch,
        error_weight=error_weight,
        error_scale=0.7,
    )
    assert_every_schedule_agrees(problem, net)


@pytest.mark.parametrize("kind", ["uniform", "feathered"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("windows", [4, 8, 13, 29])
def test_every_schedule_equals_plain_autograd_in_float32(kind, dropout, windows):
    net = Net(torch.float32, dropout)
    problem = make_problem(
        net, (8, 8 + 2 * (windows - 1)), window=8, stride=2, kind=kind, dtype=torch.float32
    )
    assert len(problem.windows) == windows
    assert_every_schedule_agrees(problem, net)


@pytest.mark.parametrize("kind", ["uniform", "feathered", "gaussian"])
def test_training_averages_windows_as_the_sampler_does(kind):
    net = Net(torch.float32)
    problem = make_problem(net, (20, 44), window=8, stride=3, kind=kind, dtype=torch.float32)
    crops = torch.cat([problem.sides[0].latents[..., w.y0 : w.y1, w.x0 : w.x1] for w in problem.windows])
    sampled = blend(net(crops, problem.windows)[:, None], problem.windows, problem.weights, 20, 44)
    assert distance([errors(problem)[1]], [sampled.detach()]) < 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_random_numbers_after_a_step_do_not_depend_on_the_schedule(schedule):
    net = Net(dropout=0.5)
    problem = make_problem(net, (8, 32), window=8, stride=2)
    torch.manual_seed(3)
    gradients(problem, list(net.parameters()), schedule)
    after = torch.rand(1)
    torch.manual_seed(3)
    plain_gradient(problem, list(net.parameters()))
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_perfect_predictor_has_no_error_and_no_gradient(schedule):
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    problem = make_problem(None, (16, 40), window=8, stride=3, kind="gaussian")

    def perfect(_, windows):
        return scale * torch.cat([problem.sides[0].target[..., w.y0 : w.y1, w.x0 : w.x1] for w in windows])

    result = gradients(replace(problem, predict=perfect), [scale], schedule)
    assert result.error < 1e-30
    assert abs(float(result.grads[0])) < 1e-15


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_linear_predictor_has_the_error_and_slope_of_the_formula(schedule, value):
    # p = a x everywhere averages to A = a J: E = mean (a J - T)^2 and dE/da = 2 mean J (a J - T).
    a = nn.Parameter(torch.tensor(value, dtype=torch.float64))
    problem = make_problem(lambda crops, _: a * crops, (8, 52), window=8, stride=4, kind="feathered")
    result = gradients(problem, [a], schedule)
    gap = value * problem.sides[0].latents - problem.sides[0].target
    assert result.error == pytest.approx(float(gap.square().mean()), rel=1e-12)
    assert float(result.grads[0]) == pytest.approx(
        float(2 * (problem.sides[0].latents * gap).mean()), rel=1e-12
    )


def test_a_constant_disagreement_averages_over_the_windows_that_meet():
    # Two windows of 8 overlap on 4 columns and say 1 and 3; W = 1. A is 1, 2, 3 on 4 columns each.
    problem = make_problem(None, (8, 12), window=8, stride=4)
    said = nn.Parameter(torch.tensor([1.0, 3.0], dtype=torch.float64))

    def constant(crops, windows):
        return torch.stack([said[w.x0 // 4].expand(crops.shape[1:]) for w in windows])

    problem = aimed(replace(problem, predict=constant), torch.zeros_like(problem.sides[0].target))
    result = gradients(problem, [said])
    assert result.error == pytest.approx((1 + 4 + 9) / 3)
    # dE/dp_1 = (2/3) (1 + 2/2), dE/dp_2 = (2/3) (3 + 2/2)
    assert result.grads[0].tolist() == pytest.approx([2 / 3 * 2, 2 / 3 * 4])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_window_is_the_plain_mean_squared_error(schedule):
    net = Net(torch.float32)
    problem = make_problem(net, (8, 8), window=8, stride=2, dtype=torch.float32)
    error = nn.functional.mse_loss(
        net(problem.sides[0].latents, list(problem.windows)), problem.sides[0].target
    )
    expected = torch.autograd.grad(error, list(net.parameters()))
    result = gradients(problem, list(net.parameters()), schedule)
    assert result.error == float(error.detach())
    assert distance(result.grads, expected) < 1e-6
    assert result.alive_peak == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_anchor_is_the_gradient_of_the_squared_distance_to_the_reference(schedule):
    net, other = Net(), Net(seed=1)
    problem = make_problem(
        net, (12, 30), window=8, stride=3, kind="feathered", error_weight="overlap", error_scale=2.0
    )
    _, anchor = errors(replace(problem, predict=other))
    result = gradients(problem, list(net.parameters()), schedule, anchor)
    towards = aimed(replace(problem, error_weight="uniform", error_scale=1.0), anchor)
    drift, _, expected = plain_gradient(towards, list(net.parameters()))
    assert result.drift == pytest.approx(float(drift.detach()), rel=1e-12)
    assert distance(result.anchor_grads, expected) < 1e-12
    assert distance(result.grads, gradients(problem, list(net.parameters())).grads) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_errors_without_gradient_are_the_same_bits(schedule, micro_batch):
    net = Net(torch.float32)
    problem = make_problem(
        net, (8, 40), window=8, stride=2, kind="gaussian", dtype=torch.float32, micro_batch=micro_batch
    )
    error, aggregate = errors(problem)
    result = gradients(problem, list(net.parameters()), schedule)
    assert result.error == error
    assert torch.equal(result.aggregate, aggregate)


def test_gradients_that_the_parameters_already_hold_stay_as_they_are():
    net = Net()
    problem = make_problem(net, (8, 20), window=8, stride=4)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    clean = gradients(problem, list(net.parameters())).grads
    assert all(bool((p.grad == 3.0).all()) for p in net.parameters())
    assert distance(clean, plain_gradient(problem, list(net.parameters()))[2]) < 1e-12


def test_a_parameter_that_the_network_does_not_use_gets_a_zero_gradient():
    net, idle = Net(), nn.Parameter(torch.ones(3, dtype=torch.float64))
    problem = make_problem(net, (8, 20), window=8, stride=4)
    result = gradients(problem, [*net.parameters(), idle])
    assert torch.equal(result.grads[-1], torch.zeros(3, dtype=torch.float64))


def test_windows_that_leave_a_gap_are_refused():
    problem = make_problem(Net(), (8, 20), window=8, stride=4)
    with pytest.raises(ValueError, match="uncovered"):
        gradients(replace(problem, windows=problem.windows[:-1]), [])
    with pytest.raises(ValueError, match="leaves the canvas"):
        gradients(replace(problem, windows=(*problem.windows, Window(0, 8, 16, 24))), [])


def test_float16_gradients_survive_a_scroll_of_many_elements():
    # (2/D)(A - target) is 2.4e-7 here, below float16's normal range; scaled by D it keeps its digits.
    a = nn.Parameter(torch.ones(4, 1, 1))
    problem = make_problem(None, (128, 512), window=128, stride=32, dtype=torch.float32)
    target = problem.sides[0].latents + 0.03 * problem.sides[0].target

    def half(crops, _):
        return a.half() * crops.half()

    result = gradients(aimed(replace(problem, predict=half), target), [a])
    gap = problem.sides[0].latents - target
    expected = 2 * (gap * problem.sides[0].latents).sum(dim=(0, 2, 3)) / gap.numel()
    assert distance(result.grads, [expected[:, None, None]]) < 2e-2
