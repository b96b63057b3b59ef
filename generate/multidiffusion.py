"""MultiDiffusion: windows denoised with the same prompt, averaged on the canvas (Bar-Tal et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from generate.base import Callback, Generated, Request
from generate.fusion import coverage, denoise, windowed
from generate.prompts import PromptEmbeddings
from generate.scroll import (
    Sampled,
    WindowSettings,
    canvas_time_ids,
    check_all,
    encode_request,
    first_latents,
    generate_each,
    linear_scheduler,
    plan_canvas,
    reporter,
)

if TYPE_CHECKING:
    from generate.models import ModelFamily


@dataclass(frozen=True, kw_only=True)
class Config(WindowSettings):
    """Settings of MultiDiffusion: those of the windows."""


class MultiDiffusion:
    """Scrolls by averaging windows: DRSPO's eqs 3 and 4 with one shared prompt."""

    name = "multidiffusion"
    config_class = Config

    def __init__(self, family: ModelFamily, config: Config | None = None) -> None:
        self.family = family
        self.config = config or Config()

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone."""
        self.check(requests)
        return generate_each(
            self.family,
            requests,
            lambda i, r: self.sample(r, callback=callback, request_index=i),
            wrap=self.config.wrap,
        )

    def check(self, requests: list[Request]) -> None:
        """Raises UserError for anything wrong with the requests, before heavy work."""
        check_all(self.family, self.config, requests)
        for request in requests:
            linear_scheduler(self.family, self.config.scheduler, request.steps)

    def sample(
        self,
        request: Request,
        *,
        embeddings: PromptEmbeddings | None = None,
        latents: Tensor | None = None,
        callback: Callback | None = None,
        request_index: int = 0,
    ) -> Sampled:
        """Final latents of one request; embeddings and latents at the first noise level may be given."""
        family, config = self.family, self.config
        canvas = plan_canvas(family, config, request.height, request.width)
        scheduler = linear_scheduler(family, config.scheduler, request.steps)
        start = first_latents(family, request, scheduler) if latents is None else latents
        embeddings = embeddings or encode_request(family, config, request)
        with windowed(
            family,
            canvas,
            embeddings,
            guidance_scale=request.guidance_scale,
            window_batch=config.window_batch,
            time_ids=canvas_time_ids(family, config.time_ids, canvas),
        ) as predict:
            final = denoise(
                predict,
                start,
                scheduler,
                keep=coverage(canvas, family.device),
                on_step=reporter(callback, request_index, self.name),
            )
        return Sampled(final, predict.facts())
