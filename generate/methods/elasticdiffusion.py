"""ElasticDiffusion: layout from small references, detail from windows (Haji-Ali et al., CVPR 2024)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.ranges import Natural, NonNegative, Range, Share
from generate.canvas.plan import Canvas, latent_size, whole_canvas
from generate.config import PromptSettings
from generate.methods.elastic_steps import Draws, Elastic
from generate.methods.one_stage import OneStage, Run
from generate.models.prompts import PromptEmbeddings
from generate.models.schedule import Schedule
from generate.models.schedulers import make_schedule
from generate.models.specs import ModelSpec
from generate.request import Request
from generate.sampling.conditions import Conditions, Control, Rows
from generate.sampling.loop import Advance
from generate.sampling.predict import Predictor

logger = logging.getLogger(__name__)
RATED = 2
"""Times the training size up to which its authors claim anything."""


@dataclass(frozen=True, kw_only=True)
class Config(PromptSettings):
    """Settings of ElasticDiffusion; as its authors choose them for twice the training size."""

    resampling: Annotated[int, Range(0, 100)] = 7
    """references beside the first one of a step, which look at other latents of each cell"""
    new_share: Share = 0.3
    """probability that a further reference looks at a latent of a cell that none looked at before"""
    repaint: bool = True
    """look at each step a second time, with a third of the guidance; not at the last, nor without
    resampling"""
    reference_weight: NonNegative = 1000.0
    """how strongly a step is pulled towards its reference at the beginning; 0: not at all"""
    reference_decay: NonNegative = 10.0
    """how fast that falls: the power of a cosine"""
    reference_stop: Share = 0.2
    """share of the last steps without it"""
    window_batch: Natural = 0
    """windows per forward; 0: as many as half of the free memory holds"""


class ElasticDiffusion(OneStage):
    """Scrolls whose guidance is seen in a reference of the training size, and whose detail in windows.

    The difference between the predictions with and without the prompt is taken from small references of the
    whole canvas, so the prompt is drawn once and not in every window; the prediction without the prompt comes
    from windows with context. Its authors claim twice the training size: a scroll of 1024 x 4096 lies beyond.
    """

    name = "elasticdiffusion"
    config_class = Config

    @classmethod
    def check_settings(cls, config: Config, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        if request.guidance_rescale:
            raise UserError(
                "elasticdiffusion guides by a reference, and rescales nothing", "--guidance-rescale"
            )
        if request.along:
            raise UserError("elasticdiffusion sees one prompt for the whole scroll", "--along")
        if spec is None:
            return
        latent_size(request.height, request.width, spec.factor)
        if (
            min(request.height, request.width) < spec.window // 2
            or max(request.height, request.width) < spec.window
        ):
            raise UserError(
                f"elasticdiffusion enlarges: {request.height}x{request.width} is smaller than what the model "
                f"was trained on, squares of {spec.window}",
                hint=f"The longer side is at least {spec.window}, the shorter at least {spec.window // 2}.",
            )

    @classmethod
    def with_window_batch(cls, config: Config, count: int) -> Config:
        """The settings with so many windows per forward."""
        return replace(config, window_batch=count)

    @property
    def window_batch(self) -> int:
        """Windows per forward; 0: by free memory."""
        return int(self.config.window_batch)

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        if self.family.unet is None or self.family.denoiser.embeds_guidance:
            raise UserError(
                f"elasticdiffusion asks a UNet with and without the prompt: {self.family.model_id} has none",
                hint="Choose another method, such as multidiffusion or drspo.",
            )
        super().check(requests)
        spec = self.family.spec
        times = max(max(request.height, request.width) / spec.window for request in requests)
        if times > RATED:
            logger.warning(
                "elasticdiffusion's authors claim sides up to twice the training size of %d, and %.3g times "
                "are asked for",
                spec.window,
                times,
            )

    def canvas(self, request: Request) -> Canvas:
        """The canvas as a whole; its windows are the sampling's own affair."""
        return whole_canvas(request.height, request.width, self.family.factor)

    def schedule(self, request: Request) -> Schedule:
        """DDIM, whose steps can be looked at twice."""
        return make_schedule(self.family, "ddim", request.steps)

    def conditions(
        self,
        embeddings: PromptEmbeddings,
        images: Any = (),
        control: Control | None = None,
        rows: Rows | None = None,
    ) -> Conditions:
        """Windows and references are told of a picture of four times the scroll's sides, as published."""

        def sizes(canvas: Canvas) -> Tensor:
            height, width = (4 * side * canvas.factor for side in (canvas.height, canvas.width))
            row = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
            return row.repeat(len(canvas.windows), 1)

        told = sizes if self.family.denoiser.tells_sizes else None
        return Conditions(embeddings, images=images, sizes=told)

    def draws(self, request: Request) -> Draws:
        """What is drawn in a sampling."""
        return Draws(request.seed)

    @contextmanager
    def advance(self, run: Run) -> Iterator[tuple[Advance, Predictor]]:
        """A step of two looks, inside the block in which the network is ours."""
        with self.fused(run) as (_, predict):
            yield Elastic(self.family, self.config, run, predict, self.draws(run.request)), predict
