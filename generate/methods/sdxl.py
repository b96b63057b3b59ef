"""The model itself on the whole canvas at once, at any size: the baseline, and the blueprint's sampler."""

from __future__ import annotations

from dataclasses import dataclass

from generate.canvas.plan import Canvas, whole_canvas
from generate.config import PromptSettings, TimeIdsMode
from generate.methods.one_stage import OneStage
from generate.models.schedule import Schedule
from generate.models.schedulers import class_name, make_schedule
from generate.models.specs import ModelSpec
from generate.request import Request


@dataclass(frozen=True, kw_only=True)
class Config(PromptSettings):
    """Settings of direct sampling."""

    scheduler: str = "ddim"
    """ddim, euler, pndm, dpmpp_2m, unipc, ddpm, euler_ancestral, or checkpoint"""
    time_ids: TimeIdsMode = "scroll"
    """what SDXL is told about sizes; with one window, scroll, window and crop say the same"""


class SDXL(OneStage):
    """One forward over the whole canvas per step (Podell et al. 2023); SD checkpoints work alike.

    Any scheduler may be used: with a single window nothing is averaged.
    """

    name = "sdxl"
    config_class = Config

    @classmethod
    def check_settings(cls, config: Config, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        class_name(config.scheduler)
        super().check_settings(config, request, spec)

    def canvas(self, request: Request) -> Canvas:
        """The canvas as its own single window."""
        return whole_canvas(request.height, request.width, self.family.factor)

    def schedule(self, request: Request) -> Schedule:
        """The configured schedule."""
        return make_schedule(self.family, self.config.scheduler, request.steps)
