"""One level down the schedule: the canvas as a whole, or every window by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from generate.canvas.plan import Canvas
from generate.canvas.windows import Window
from generate.models.schedule import Schedule
from generate.sampling.combine import combine, covered_only, cut
from generate.sampling.loop import Moment


class Stepper(Protocol):
    """(canvas, guided predictions of its windows, latents [1, C, H, W], moment) -> latents one level down."""

    def __call__(self, canvas: Canvas, predictions: Tensor, latents: Tensor, moment: Moment) -> Tensor: ...


class CanvasStepper:
    """One scheduler step for the whole canvas, with the average of the windows' predictions (eqs 3 and 4).

    Equal to stepping every window and averaging where the scheduler is linear (see
    `schedulers.require_linear`). The scheduler's history lies on the canvas, so windows may move.
    """

    def __init__(
        self,
        schedule: Schedule,
        noise: torch.Generator | None = None,
        combine: Callable[[Canvas, Tensor], Tensor] = combine,
    ) -> None:
        self.schedule, self.noise, self.combine = schedule, noise, combine

    def __call__(self, canvas: Canvas, predictions: Tensor, latents: Tensor, moment: Moment) -> Tensor:
        """The canvas one level down, zero where no window reaches."""
        whole = self.combine(canvas, predictions)
        return covered_only(canvas, self.schedule.step(whole, moment.timestep, latents, self.noise))


class WindowStepper:
    """Every window takes the scheduler's step by itself, then the windows are combined.

    For methods that edit windows or draw noise in each of them. All windows go through one call of the
    scheduler, which is elementwise: its history is theirs, window by window, and it counts one step.
    """

    def __init__(
        self,
        schedule: Schedule,
        noise: torch.Generator | None = None,
        combine: Callable[[Canvas, Tensor], Tensor] = combine,
    ) -> None:
        self.schedule, self.noise, self.combine = schedule, noise, combine
        self._before: tuple[Window, ...] | None = None

    def __call__(self, canvas: Canvas, predictions: Tensor, latents: Tensor, moment: Moment) -> Tensor:
        """The canvas one level down, from windows as they lie on it."""
        return self.step(canvas, predictions, cut(canvas, latents), moment)

    def step(self, canvas: Canvas, predictions: Tensor, windows: Tensor, moment: Moment) -> Tensor:
        """The canvas one level down, from windows [n, C, h, w] that may have been edited."""
        if self.schedule.keeps_history and self._before not in (None, canvas.windows):
            raise ValueError(f"{self.schedule.name} steps by earlier predictions: its windows must not move")
        self._before = canvas.windows
        return self.combine(canvas, self.schedule.step(predictions, moment.timestep, windows, self.noise))
