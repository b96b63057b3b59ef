"""How a scroll's windows add up to its average (eq. 4), the error of that, and the error's pull."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generate.canvas.windows import Window
from train.engine.problem import Problem, Side
from train.engine.window_order import WindowOrder, window_order


class Field:
    """What both scrolls of a pair share, with the adapter and without: weight sums, order, importance.

    Built once per pair. Raises ValueError where the windows leave the latents or do not cover them.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        first = problem.sides[0]
        height, width = first.latents.shape[-2:]
        self.order: WindowOrder = window_order(problem.windows, problem.micro_batch)
        self.dtype = torch.promote_types(first.target.dtype, torch.float32)
        self.weights = problem.weights.to(first.latents.device, self.dtype)
        self.total = torch.zeros(height, width, dtype=self.dtype, device=first.latents.device)
        counts = torch.zeros_like(self.total)
        _require_inside(problem.windows, height, width)
        for window in problem.windows:
            self.total[area_of(window)].add_(self.weights)
            counts[area_of(window)].add_(1)
        if not bool((self.total > 0).all()):
            raise ValueError(f"the windows leave part of the {height} x {width} latents uncovered")
        self.importance = self._importance(counts)
        """Weights of elements in E [H, W]."""

    def parts(self) -> list[list[Blend]]:
        """Empty blends of all sides, in lists of those that share their calls."""
        blends = [Blend(self, side) for side in self.problem.sides]
        return [blends] if self.problem.together else [[blend] for blend in blends]

    def predictions(self, blends: Sequence[Blend], group: Sequence[int]) -> Tensor:
        """The network's output for one micro-batch of windows of each scroll [scrolls x n, C, h, w]."""
        windows = [self.problem.windows[i] for i in group]
        crops = torch.cat([blend.side.latents[area_of(window)] for blend in blends for window in windows])
        return self.problem.predict(crops, windows * len(blends))

    def areas(self, group: Sequence[int]) -> list[tuple]:
        """Indices of a micro-batch's windows in [..., H, W]."""
        return [area_of(self.problem.windows[index]) for index in group]

    def _importance(self, counts: Tensor) -> Tensor:
        """Constant, or proportional to the overlap count with mean one (eq. 22)."""
        if self.problem.error_weight == "overlap":
            return self.problem.error_scale * counts / counts.mean()
        return torch.full_like(self.total, self.problem.error_scale)


class Blend:
    """One scroll's average while it grows by windows, and the pull of its error on any of them."""

    def __init__(self, field: Field, side: Side) -> None:
        self.field, self.side = field, side
        self.numerator = torch.zeros_like(side.target, dtype=field.dtype)

    def paste(self, group: Sequence[int], predictions: Tensor) -> None:
        """Add W_i p_i of one micro-batch to the numerator of eq. 4, in float32 or better."""
        for area, prediction in zip(self.field.areas(group), predictions, strict=True):
            self.numerator[area].add_(self.field.weights * prediction.to(self.field.dtype))

    def aggregate(self) -> Tensor:
        """A = sum_i F_i^-1(W_i p_i) / sum_i F_i^-1(W_i)."""
        return self.numerator / self.field.total

    def error(self, aggregate: Tensor) -> Tensor:
        """Mean over elements of importance x (A - target)^2: a scalar tensor."""
        gap = aggregate - self.side.target.to(self.field.dtype)
        return (self.field.importance * gap.square()).mean()

    def pull(self, group: Sequence[int]) -> Tensor:
        """D x dE/dp_i = 2 importance (W_i / sum W) (A - target) on each window of a micro-batch [n, C, h, w].

        Multiplied by D, the elements of the scroll, because 1/D alone is below float16's normal range; the
        engine divides at the end. Only the windows' own areas are read, so it is right as soon as those are
        complete.
        """
        areas, importance = self.field.areas(group), self.field.importance
        return torch.cat([importance[area] * self._gap(area, self.side.target) for area in areas])

    def anchor_pull(self, group: Sequence[int], anchor: Tensor) -> Tensor:
        """The same for mean (A - A_ref)^2, which has no weights."""
        return torch.cat([self._gap(area, anchor) for area in self.field.areas(group)])

    def _gap(self, area: tuple, target: Tensor) -> Tensor:
        total = self.field.total[area]
        gap = self.numerator[area] / total - target[area].to(self.field.dtype)
        return 2 * (self.field.weights / total) * gap


def _require_inside(windows: Sequence[Window], height: int, width: int) -> None:
    """ValueError where a window leaves the canvas: sampling may wrap around it, training does not."""
    if any(w.y0 < 0 or w.x0 < 0 or w.y1 > height or w.x1 > width for w in windows):
        raise ValueError(f"a window leaves the canvas of {height} x {width} latents; training does not wrap")


def area_of(window: Window) -> tuple:
    """Index of a window's latents, whatever dimensions come before."""
    return (..., slice(window.y0, window.y1), slice(window.x0, window.x1))
