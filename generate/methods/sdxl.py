"""The model itself on the whole canvas at once, at any size: the baseline, and the blueprint's sampler."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generate.canvas.blend import window_weights
from generate.canvas.sizes import TimeIdsMode
from generate.canvas.windows import plan_windows
from generate.methods.one_stage import OneStage
from generate.models.prompts import EmptyNegative, LongPrompt, PromptEmbeddings
from generate.models.schedulers import class_name, make_scheduler
from generate.request import Request, latent_size
from generate.sampling.fusion import Canvas, WindowPredictor, windowed
from generate.sampling.scroll import canvas_time_ids

if TYPE_CHECKING:
    from generate.models.family import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of direct sampling."""

    scheduler: str = "ddim"
    """ddim, euler, pndm, dpmpp_2m, unipc, ddpm, euler_ancestral, or checkpoint"""
    time_ids: TimeIdsMode = "scroll"
    """what SDXL is told about sizes; with one window, scroll, window and crop say the same"""
    empty_negative: EmptyNegative = "checkpoint"
    """an empty negative prompt: all zeros, encoded like a text, or what the model's settings say"""
    long_prompt: LongPrompt = "refuse"
    """a prompt beyond 77 tokens: refuse it, truncate it with a warning, or chunk it"""


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

    def canvas(self, request: Request) -> Canvas:
        """The canvas as its own single window."""
        height, width = latent_size(request.height, request.width)
        windows = plan_windows(height, width, (height, width), (height, width))
        return Canvas(height, width, windows, window_weights("uniform", height, width))

    def scheduler(self, request: Request) -> Any:
        """The configured scheduler."""
        return make_scheduler(self.family, self.config.scheduler, request.steps)

    def predictor(
        self, canvas: Canvas, embeddings: PromptEmbeddings, request: Request
    ) -> AbstractContextManager[WindowPredictor]:
        """One forward a step."""
        return windowed(
            self.family, canvas, embeddings,
            guidance_scale=request.guidance_scale, guidance_rescale=request.guidance_rescale,
            time_ids=canvas_time_ids(self.family, self.config.time_ids, canvas), window_batch=1,
        )  # fmt: skip
