"""The region-level term of eq. 23: the preference loss on single windows.

L = L1 + lambda L2. L1 is eq. 19 on the scroll; the paper leaves L2 undefined. Our reading: eq. 9 on each
window's raw prediction, with a sigmoid of its own, averaged over the windows. One window drawn at random is
an unbiased estimate of that average, costs 1/n of the scroll, and keeps the streaming schedule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from drspo.hashing import seed_from
from generate.canvas.windows import Window
from train.engine.field import area_of
from train.engine.problem import Problem, Side


def choose_windows(count: int, which: Literal["one", "all"], seed: int) -> list[int]:
    """The windows in this step's region term: one, uniformly by the seed, or all."""
    if which == "all":
        return list(range(count))
    generator = torch.Generator().manual_seed(seed_from("region", seed))
    return [int(torch.randint(count, (1,), generator=generator))]


def region_problem(problem: Problem, index: int) -> Problem:
    """The pair's problem restricted to one window: same noise, same t, and the network still knows where it
    looks."""
    window = problem.windows[index]
    area = area_of(window)

    def predict(crops: Tensor, _: list[Window]) -> Tensor:
        return problem.predict(crops, [window])

    return replace(
        problem,
        sides=tuple(Side(latents=side.latents[area], target=side.target[area]) for side in problem.sides),
        windows=(Window(0, window.y1 - window.y0, 0, window.x1 - window.x0),),
        weights=torch.ones_like(problem.weights),
        predict=predict,
        together=False,
        error_weight="uniform",
    )
