"""SyncDiffusion: windows pulled towards the middle one's look (Lee et al., NeurIPS 2023, 2306.05178)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.ranges import Count, Range
from generate.canvas.plan import Canvas, in_force, plan_canvas
from generate.images.perceptual import load_perceptual, locate_perceptual
from generate.methods import multidiffusion
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Run
from generate.models.memory import free_bytes, is_out_of_memory
from generate.models.specs import ModelSpec
from generate.request import OWN, Request, own
from generate.sampling.combine import cut
from generate.sampling.conditions import Half
from generate.sampling.gradient_memory import gradient_bytes
from generate.sampling.loop import Advance, Moment
from generate.sampling.predict import Predictor
from generate.sampling.steppers import WindowStepper
from generate.sampling.synchronise import Preview, Pull, Sight, alone, recomputing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """One of the authors' three sets of numbers."""

    weight: float
    decay: float
    share: float
    """of the steps, from the noisy end, that are synchronised"""
    strides: int
    """in a window's side"""


LATENTS = 64
"""Of a side of the windows that these numbers were found for."""
DEFAULTS = {
    "paper": Defaults(weight=20.0, decay=0.95, share=1.0, strides=4),
    "script": Defaults(weight=20.0, decay=0.95, share=0.2, strides=4),
    "command": Defaults(weight=0.1, decay=0.99, share=0.8, strides=8),
}


@dataclass(frozen=True, kw_only=True)
class Config(multidiffusion.Config):
    """Settings of SyncDiffusion."""

    defaults: Literal["paper", "script", "command"] = "paper"
    """whose numbers hold where none is set: the paper's (all steps), those of the authors' example script (a
    fifth of the steps, else the paper's), or of their command's flags (weight 0.1, 4/5 of the steps)"""
    weight: Annotated[float, Range(0, 1e6, also=(-1,))] = OWN
    """how far a window follows the gradient; -1: that of the defaults for windows of 64 x 64 latents (20, or
    0.1), in proportion to their area for others, since the distance is a mean over the picture"""
    decay: Annotated[float, Range(0, 1, also=(-1,))] = OWN
    """what the weight is multiplied by at every step; -1: 0.95, or 0.99"""
    every: Count = 1
    """synchronise at every so-manieth step"""
    until: Annotated[int, Range(0, 1000, also=(-1,))] = OWN
    """steps, from the noisy end, that are synchronised; -1: the share that the defaults say"""
    net: str = "own"
    """what tells how alike pictures look: vgg, alex or squeeze of LPIPS, a folder, or own (the model's)"""
    net_weights: str = ""
    """a file with the weights of LPIPS's backbone, where torchvision does not keep it"""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """compute again what the gradient needs instead of keeping it; auto: where that takes more than half of
    the free memory"""


class SyncDiffusion(MultiDiffusion):
    """MultiDiffusion whose windows move, before each step, towards looking like the middle window.

    What a window would become is decoded, compared with what the middle one would become, and the window goes
    down the gradient of that distance. The gradient passes the network, so a synchronised step costs about
    four times a plain one.
    """

    name = "syncdiffusion"
    config_class = Config

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        super().check_settings(placed(config, spec), request, spec)

    @classmethod
    def check_weights(cls, config: Any, spec: ModelSpec | None) -> None:
        """UserError where the net that compares pictures is not on this machine."""
        locate_perceptual(*net_of(config, spec))

    @property
    def parts(self) -> dict[str, Any]:
        """What a rehearsal runs a few times and then counts."""
        return {"preview": self._preview, "gradient": self._pull}

    @cached_property
    def _pull(self) -> Pull:
        source, weights = net_of(self.config, self.family.spec)
        return Pull(load_perceptual(source, self.family.device, weights))

    @cached_property
    def _preview(self) -> Preview:
        return Preview()

    def resolved(self, request: Request) -> Any:
        """The settings in force."""
        spec = self.family.spec
        told, defaults = super().resolved(request), DEFAULTS[self.config.defaults]
        area = (told.window / spec.factor / LATENTS) ** 2
        return replace(
            told,
            stride=in_force(placed(self.config, spec), spec).stride,
            weight=own(self.config.weight, defaults.weight * area),
            decay=own(self.config.decay, defaults.decay),
            until=own(self.config.until, round(defaults.share * len(self.schedule(request)))),
            net=net_of(self.config, spec)[0],
        )

    def canvas(self, request: Request) -> Canvas:
        """The windows; a ring with an uncovered edge lacks the last, as the authors' loop closure does."""
        config = placed(self.config, self.family.spec)
        canvas = plan_canvas(self.family.spec, config, request.height, request.width)
        if not (config.wrap and config.edge == "uncovered"):
            return canvas
        last = max(window.x0 for window in canvas.windows)
        kept = tuple(window for window in canvas.windows if window.x0 != last)
        return replace(canvas, windows=kept)

    @contextmanager
    def advance(self, run: Run) -> Iterator[tuple[Advance, Predictor]]:
        """Pull the windows, then MultiDiffusion's step of each of them."""
        with self.fused(run) as (_, predict):
            self.family.wake("denoise", "vae")
            request, closely = (
                run.request,
                Predictor(self.family, run.conditions, run.request.guidance_scale, 1, False),
            )
            told = (run.schedule, self.family.vae, request.guidance_scale, request.guidance_rescale)
            settings, stepper = self.resolved(request), WindowStepper(run.schedule)
            wide, near = Sight(predict, *told), Sight(closely, *told)
            networks = [self.family.network, self.family.vae]

            def step(latents: Tensor, moment: Moment) -> Tensor:
                windows = cut(run.canvas, latents)
                if (moment.index + 1) % settings.every == 0 and moment.index < settings.until:
                    weight = settings.weight * settings.decay**moment.index
                    windows = self._pulled(run.canvas, windows, moment, near, weight)
                return stepper.step(run.canvas, wide.guided(windows, moment, run.canvas), windows, moment)

            with recomputing(networks, self._recomputes(run, closely.halves)):
                yield step, predict
            predict.evaluations += closely.evaluations
            predict.control_evaluations += closely.control_evaluations

    def _pulled(self, canvas: Canvas, windows: Tensor, moment: Moment, sight: Sight, weight: float) -> Tensor:
        """The windows after one step down the gradient, but for the anchor, whose own would be zero."""
        anchor = len(windows) // 2
        shown = self._preview(windows[anchor : anchor + 1], moment, alone(canvas, anchor), sight)
        moved = []
        for index, window in enumerate(windows.split(1)):
            if index != anchor:
                window = window - weight * self._gradient(window, moment, alone(canvas, index), sight, shown)
            moved.append(window)
        return torch.cat(moved)

    def _gradient(
        self, window: Tensor, moment: Moment, canvas: Canvas, sight: Sight, shown: Tensor
    ) -> Tensor:
        try:
            gradient = self._pull(window, moment, canvas, sight, shown)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"Not enough memory on {self.family.device} for the gradient of a single window.",
                hint="Choose --syncdiffusion.gradient-checkpointing on, or a smaller window.",
            ) from error
        if not bool(gradient.isfinite().all()):
            raise UserError(
                f"At step {moment.index} the gradient of a window is not finite.",
                hint="Choose --dtype bfloat16 or float32, or another --syncdiffusion.net.",
            )
        return gradient

    def _recomputes(self, run: Run, halves: tuple[Half, ...]) -> bool:
        """Whether what the gradient needs is computed again instead of kept."""
        if self.config.gradient_checkpointing != "auto":
            return bool(self.config.gradient_checkpointing == "on")
        canvas = alone(run.canvas, 0)
        condition = run.conditions.of(canvas, range(1), halves, None)
        if condition.images:  # an adapter's weights lie in attention processors, where they are not counted
            return True
        needed = gradient_bytes(self.family, run.schedule, self._pull.distance, canvas, condition)
        return needed > free_bytes(self.family.device) // 2


def placed(config: Any, spec: ModelSpec | None) -> Any:
    """The settings with the stride that the chosen defaults mean, where none is set."""
    strides = DEFAULTS[config.defaults].strides
    if config.stride != OWN or strides == 4 or spec is None:
        return config
    return replace(config, stride=max(own(config.window, spec.window) // strides, spec.factor))


def net_of(config: Any, spec: ModelSpec | None) -> tuple[str, str]:
    """The perceptual network in force, and the file of its backbone."""
    named = (spec or ModelSpec(base="")).perceptual if config.net == "own" else config.net
    return named, config.net_weights
