"""MultiDiffusion: windows denoised with the same prompt, averaged on the canvas (Bar-Tal et al. 2023)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generate.methods.one_stage import OneStage
from generate.models.prompts import PromptEmbeddings
from generate.models.schedulers import check_linear
from generate.request import Request
from generate.sampling.fusion import Canvas, WindowPredictor, windowed
from generate.sampling.scroll import (
    WindowSettings,
    canvas_time_ids,
    check_window,
    in_force,
    linear_scheduler,
    plan_canvas,
)

if TYPE_CHECKING:
    from generate.models.family import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Config(WindowSettings):
    """Settings of MultiDiffusion: those of the windows."""


class MultiDiffusion(OneStage):
    """Scrolls by averaging windows: DRSPO's eqs 3 and 4 with one shared prompt."""

    name = "multidiffusion"
    config_class = Config

    @classmethod
    def check_settings(cls, config: WindowSettings, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        check_linear(config.scheduler)
        check_window(config)
        if spec is not None:
            plan_canvas(spec, config, request.height, request.width)

    def resolved(self, request: Request) -> Any:
        """The settings in force: the model's own window and stride where none are set."""
        return in_force(self.config, self.family.spec)

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas with its windows."""
        return plan_canvas(self.family.spec, self.config, request.height, request.width)

    def scheduler(self, request: Request) -> Any:
        """The configured scheduler, which may take one step for all windows."""
        return linear_scheduler(self.family, self.config.scheduler, request.steps)

    def predictor(
        self, canvas: Canvas, embeddings: PromptEmbeddings, request: Request
    ) -> AbstractContextManager[WindowPredictor]:
        """Every window by itself, in micro-batches."""
        return windowed(
            self.family, canvas, embeddings,
            guidance_scale=request.guidance_scale, guidance_rescale=request.guidance_rescale,
            time_ids=canvas_time_ids(self.family, self.config.time_ids, canvas),
            window_batch=self.config.window_batch,
        )  # fmt: skip
