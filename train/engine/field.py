"""A scroll's averaged prediction (eq. 4) while it grows by windows, its error, and that error's pull."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generate.canvas.windows import Window
from train.engine.order import Plan, plan_stream
from train.engine.problem import Side


class Field:
    """The running average over a scroll's windows: numerator, weight sum, and the pull of E on one window."""

    def __init__(self, side: Side) -> None:
        self.side = side
        height, width = side.latents.shape[-2:]
        self.plan: Plan = plan_stream(side.windows, side.micro_batch)
        self.dtype = torch.promote_types(side.target.dtype, torch.float32)
        self.weights = side.weights.to(side.latents.device, self.dtype)
        self.total = torch.zeros(height, width, dtype=self.dtype, device=side.latents.device)
        self.counts = torch.zeros_like(self.total)
        _require_inside(side.windows, height, width)
        for window in side.windows:
            self.total[area_of(window)].add_(self.weights)
            self.counts[area_of(window)].add_(1)
        if not bool((self.total > 0).all()):
            raise ValueError(f"the windows leave part of the {height} x {width} latents uncovered")
        self.numerator = torch.zeros_like(side.target, dtype=self.dtype)
        self.importance = self._importance()

    def predictions(self, group: Sequence[int]) -> Tensor:
        """The network's output for one micro-batch of windows [n, C, h, w]."""
        windows = [self.side.windows[i] for i in group]
        crops = torch.cat([self.side.latents[area_of(window)] for window in windows])
        return self.side.predict(crops, windows)

    def paste(self, group: Sequence[int], predictions: Tensor) -> None:
        """Add W_i p_i of one micro-batch to the numerator of eq. 4, in float32 or better."""
        for index, prediction in zip(group, predictions, strict=True):
            self.numerator[area_of(self.side.windows[index])].add_(self.weights * prediction.to(self.dtype))

    def aggregate(self) -> Tensor:
        """A = sum_i F_i^-1(W_i p_i) / sum_i F_i^-1(W_i)."""
        return self.numerator / self.total

    def error_tensor(self, aggregate: Tensor, target: Tensor) -> Tensor:
        """Mean over elements of importance x (A - target)^2: a scalar tensor."""
        return (self.importance * (aggregate - target.to(self.dtype)).square()).mean()

    def error(self, aggregate: Tensor, target: Tensor) -> float:
        """The same as a float."""
        return float(self.error_tensor(aggregate, target))

    def pull(self, group: Sequence[int]) -> Tensor:
        """D x dE/dp_i = 2 importance (W_i / sum W) (A - target) on each window of a micro-batch [n, C, h, w].

        Multiplied by D, the elements of the scroll, because 1/D alone is below float16's normal range; the
        engine divides at the end. Only the windows' own areas are read, so it is right as soon as those are
        complete.
        """
        return torch.cat(
            [self.importance[area] * self._gap(area, self.side.target) for area in self._areas(group)]
        )

    def anchor_pull(self, group: Sequence[int], anchor: Tensor) -> Tensor:
        """The same for mean (A - A_ref)^2, which has no weights."""
        return torch.cat([self._gap(area, anchor) for area in self._areas(group)])

    def _gap(self, area: tuple, target: Tensor) -> Tensor:
        gap = self.numerator[area] / self.total[area] - target[area].to(self.dtype)
        return 2 * (self.weights / self.total[area]) * gap

    def _areas(self, group: Sequence[int]) -> list[tuple]:
        return [area_of(self.side.windows[index]) for index in group]

    def _importance(self) -> Tensor:
        """Weights of elements in E [H, W]: constant, or proportional to the overlap count with mean one."""
        if self.side.error_weight == "overlap":
            return self.side.error_scale * self.counts / self.counts.mean()
        return torch.full_like(self.total, self.side.error_scale)


def _require_inside(windows: Sequence[Window], height: int, width: int) -> None:
    """ValueError where a window leaves the canvas: sampling may wrap around it, training does not."""
    if any(w.y0 < 0 or w.x0 < 0 or w.y1 > height or w.x1 > width for w in windows):
        raise ValueError(f"a window leaves the canvas of {height} x {width} latents; training does not wrap")


def area_of(window: Window) -> tuple:
    """Index of a window's latents, whatever dimensions come before."""
    return (..., slice(window.y0, window.y1), slice(window.x0, window.x1))
