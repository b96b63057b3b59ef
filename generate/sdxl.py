"""The model itself on the whole canvas at once, at any size: the baseline, and the blueprint's sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generate.base import Callback, Generated, Request, latent_size
from generate.blend import window_weights
from generate.conditioning import TimeIdsMode
from generate.fusion import Canvas, denoise, windowed
from generate.prompts import EmptyNegative, LongPrompt, PromptEmbeddings
from generate.schedulers import make_scheduler
from generate.scroll import (
    Sampled,
    canvas_time_ids,
    check_all,
    encode_request,
    first_latents,
    generate_each,
    reporter,
)
from generate.windows import plan_windows

if TYPE_CHECKING:
    from generate.models import ModelFamily


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


class SDXL:
    """One forward over the whole canvas per step (Podell et al. 2023); SD checkpoints work alike.

    Any scheduler may be used: with a single window nothing is averaged.
    """

    name = "sdxl"
    config_class = Config

    def __init__(self, family: ModelFamily, config: Config | None = None) -> None:
        self.family = family
        self.config = config or Config()

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone."""
        self.check(requests)
        return generate_each(
            self.family, requests, lambda i, r: self.sample(r, callback=callback, request_index=i)
        )

    def check(self, requests: list[Request]) -> None:
        """Raises UserError for anything wrong with the requests, before heavy work."""
        check_all(self.family, self.config, requests)

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
        canvas = whole_canvas(request)
        scheduler = make_scheduler(family, config.scheduler, request.steps)
        start = first_latents(family, request, scheduler) if latents is None else latents
        with windowed(
            family,
            canvas,
            embeddings or encode_request(family, config, request),
            guidance_scale=request.guidance_scale,
            window_batch=1,
            time_ids=canvas_time_ids(family, config.time_ids, canvas),
        ) as predict:
            final = denoise(
                predict,
                start,
                scheduler,
                generator=step_noise(request.seed),
                on_step=reporter(callback, request_index, self.name),
            )
        return Sampled(final, predict.facts())


def whole_canvas(request: Request) -> Canvas:
    """The canvas as its own single window."""
    height, width = latent_size(request.height, request.width)
    windows = plan_windows(height, width, (height, width), (height, width))
    return Canvas(height, width, windows, window_weights("uniform", height, width))


def step_noise(seed: int) -> torch.Generator:
    """The generator of schedulers that draw noise: on the CPU, and not the one of the first latents."""
    return torch.Generator().manual_seed((seed ^ 0x5DEECE66D) % (1 << 63))
