"""TwinDiffusion: each window takes over the seam of the one before (Zhou and Tang, ECAI 2024, 2404.19475)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.ranges import Count, NonNegative
from generate.canvas.plan import Canvas, in_force
from generate.canvas.windows import Window
from generate.methods import multidiffusion
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Run
from generate.models.schedule import Schedule
from generate.models.specs import ModelSpec
from generate.request import Request
from generate.sampling.combine import combine, cut
from generate.sampling.loop import Moment
from generate.sampling.steppers import Stepper


@dataclass(frozen=True, kw_only=True)
class Config(multidiffusion.Config):
    """Settings of TwinDiffusion."""

    lam: NonNegative = 1.0
    """lambda of crop fusion: 0 copies the window before, a large one leaves each window to itself"""
    cross_time: Count = 2
    """places that the inner windows take in turn, step by step; 1: they stay"""


class TwinDiffusion(MultiDiffusion):
    """MultiDiffusion whose windows agree before they are averaged.

    Crop fusion: in the first half of the steps, each window's part that the window before it also covers
    becomes the mean of the two, from left to right. Cross sampling: the inner windows lie elsewhere at every
    other step, so that seams do not stay.
    """

    name = "twindiffusion"
    config_class = Config
    settled: ClassVar[dict[str, str]] = {
        "image_prompt": "its windows move, and each picture belongs to a place",
        "wrap": "its windows follow each other from left to right",
    }

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        super().check_settings(config, request, spec)
        if spec is None:
            return
        settled = in_force(config, spec)
        if request.height != settled.window:
            raise UserError(
                f"twindiffusion fuses windows in one row: the height must be the window's "
                f"{settled.window}, not {request.height}.",
                hint="Choose that height, or multidiffusion.",
            )
        latents = settled.stride // spec.factor
        if config.cross_time > latents:
            raise UserError(
                f"cross_time {config.cross_time} is more than the {latents} latents of a stride.",
                hint="2 is the authors' value.",
            )

    def schedule(self, request: Request) -> Schedule:
        """A linear schedule; one that looks back needs windows that stay."""
        schedule = super().schedule(request)
        if schedule.keeps_history and self.config.cross_time > 1:
            raise UserError(
                f"{schedule.name} steps by earlier predictions of the same window, and these windows move.",
                hint="Choose ddim or euler, or cross_time=1.",
            )
        return schedule

    def canvas_at(self, run: Run, index: int) -> Canvas:
        """The windows of a step, the inner ones in their turn."""
        stride = in_force(self.config, self.family.spec).stride // self.family.factor
        cross = self.config.cross_time
        return crossed(run.canvas, (index % cross) * (stride // cross))

    def stepper(self, run: Run) -> Stepper:
        """Every window by itself, then fused, then averaged."""
        return CropFusion(run.schedule, self.config.lam)


class CropFusion:
    """A step for each window, crop fusion while half of the steps are not over, and the average."""

    def __init__(self, schedule: Schedule, lam: float) -> None:
        self.schedule, self.lam = schedule, lam

    def __call__(self, canvas: Canvas, predictions: Tensor, latents: Tensor, moment: Moment) -> Tensor:
        """The canvas one level down."""
        windows = self.schedule.step(predictions, moment.timestep, cut(canvas, latents))
        if moment.index < moment.count // 2:
            windows = crop_fusion(canvas.windows, windows, self.lam)
        return combine(canvas, windows)


def crop_fusion(windows: tuple[Window, ...], latents: Tensor, lam: float) -> Tensor:
    """y_k where window k-1 also reaches becomes (y_{k-1} + lam y_k) / (1 + lam) (their eq. 5), left to right.

    The window before is taken as it was fused itself. [n, C, h, w] to the same.
    """
    fused = [latents[0]]
    for before, window, own in zip(windows[:-1], windows[1:], latents[1:], strict=True):
        overlap = max(before.x1 - window.x0, 0)
        seam = (fused[-1][..., own.shape[-1] - overlap :] + lam * own[..., :overlap]) / (1 + lam)
        fused.append(torch.cat([seam, own[..., overlap:]], -1))
    return torch.stack(fused)


@lru_cache(maxsize=64)
def crossed(canvas: Canvas, by: int) -> Canvas:
    """The canvas with all windows but the first and the last further right, as far as the canvas reaches."""
    if len(canvas.windows) < 3 or not by:
        return canvas
    first, *inner, last = canvas.windows
    ways = [min(by, canvas.width - window.x1) for window in inner]
    moved = (Window(w.y0, w.y1, w.x0 + way, w.x1 + way) for w, way in zip(inner, ways, strict=True))
    return replace(canvas, windows=(first, *moved, last))
