"""A step of windowed sampling put together: cut, predict, guide, step. MultiDiffusion as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from generate.canvas.plan import Canvas
from generate.models.schedule import Schedule
from generate.sampling.combine import cut
from generate.sampling.guide import guide
from generate.sampling.loop import Moment
from generate.sampling.predict import Prediction
from generate.sampling.steppers import Stepper

CanvasAt = Callable[[int], Canvas]
"""The canvas at a step, for methods whose windows move."""


class Predict(Protocol):
    """(scaled windows, moment, canvas) -> predictions: a `Predictor`, or what a method puts in its place."""

    def __call__(self, windows: Tensor, moment: Moment, canvas: Canvas, /) -> Prediction: ...


@dataclass(frozen=True)
class Fusion:
    """One step from its four parts, each of which a method may replace."""

    canvas_at: CanvasAt
    schedule: Schedule
    predict: Predict
    stepper: Stepper
    guidance_scale: float
    guidance_rescale: float = 0.0

    def __call__(self, latents: Tensor, moment: Moment) -> Tensor:
        """The latents one level down (DRSPO, eqs 3 and 4)."""
        canvas = self.canvas_at(moment.index)
        windows = cut(canvas, self.schedule.scaled(latents, moment.timestep))
        prediction = self.predict(windows, moment, canvas)
        guided = guide(prediction, self.guidance_scale, self.guidance_rescale)
        return self.stepper(canvas, guided, latents, moment)
