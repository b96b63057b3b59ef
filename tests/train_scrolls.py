"""Scrolls in windows for tests of the gradient engine: a small network, a problem of one scroll, and what the
engine says of it."""

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import nn

from generate.canvas.blend import window_weights
from generate.canvas.windows import plan_windows
from train.engine import gradient as engine
from train.engine.field import Field
from train.engine.problem import Problem, Side, Trainable

SCHEDULES = ["stream", "two_pass", "autograd"]


class Net(nn.Module):
    """A small network with two layers to train, dropout, and knowledge of where its window lies."""

    def __init__(self, dtype=torch.float64, dropout=0.0, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(4, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.dropout = dropout
        self.to(dtype)

    def forward(self, crops, windows):
        place = torch.tensor([math.sin(w.x0 + 2.0 * w.y0) for w in windows], dtype=crops.dtype)
        hidden = torch.tanh(self.first(crops) + place[:, None, None, None])
        return self.second(nn.functional.dropout(hidden, self.dropout, training=True))


def make_problem(net, grid, *, window, stride, kind="uniform", dtype=torch.float64, seed=0, **more):
    height, width = grid
    generator = torch.Generator().manual_seed(seed)
    latents, target = (torch.randn(1, 4, height, width, generator=generator, dtype=dtype) for _ in range(2))
    return Problem(
        sides=(Side(latents=latents, target=target),),
        windows=plan_windows(height, width, window, stride),
        weights=window_weights(kind, window, window),
        predict=net,
        **more,
    )


def aimed(problem, target):
    """The problem with another target."""
    return replace(problem, sides=(replace(problem.sides[0], target=target),))


def gradients(problem, parameters, schedule="stream", anchor=None):
    """The engine's result for a problem of one scroll."""
    trainable = Trainable(parameters, off=nullcontext)
    return engine.gradients(Field(problem), trainable, schedule, anchor)[0]


def errors(problem):
    """The engine's error and average for a problem of one scroll."""
    return engine.errors(Field(problem))[0]


def distance(a, b):
    flat_a, flat_b = (torch.cat([x.reshape(-1) for x in xs]) for xs in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


@st.composite
def grids(draw):
    """A canvas with 1 to 29 windows, in one or two dimensions, with or without a remainder at the edge."""
    window = draw(st.sampled_from([4, 6, 8]))
    stride = draw(st.integers(1, window))
    flat = draw(st.booleans())
    height = window if flat else window + draw(st.integers(0, 2 * stride))
    width = window + draw(st.integers(0, (28 if flat else 6) * stride))
    return (height, width), window, stride
