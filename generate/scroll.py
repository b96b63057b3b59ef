"""From a request to its parts: windows, scheduler, embeddings, first latents; from latents to a picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from drspo.errors import UserError
from generate.base import (
    PIXELS_PER_LATENT,
    Callback,
    Generated,
    Request,
    Step,
    check_request,
    initial_noise,
    latent_size,
)
from generate.blend import WeightKind, window_weights
from generate.conditioning import TimeIdsMode, window_time_ids
from generate.fusion import Canvas, OnStep
from generate.prompts import EmptyNegative, LongPrompt, PromptEmbeddings, check_lengths, encode_prompts
from generate.schedulers import make_scheduler, require_linear
from generate.vae import decode_latents, to_pil
from generate.windows import Edge, plan_windows, scale

if TYPE_CHECKING:
    from generate.models import ModelFamily

logger = logging.getLogger(__name__)
WRAP_MARGIN = 8
"""Latent columns of the other end shown to the decoder on each side of a wrapped scroll."""


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How a canvas is cut into windows and put together again."""

    window: int = 0
    """side of the square window in pixels; 0: the model's own"""
    stride: int = 0
    """from one window to the next in pixels; 0: the model's own, or a quarter of the window if that is set"""
    weights: WeightKind = "uniform"
    """W_i of eq. 4: how much each part of a window counts where windows overlap"""
    edge: Edge = "flush"
    """flush: the last window ends at the edge; uncovered: what the stride does not reach stays zero"""
    wrap: bool = False
    """join the left and right ends, for a scroll that closes to a ring"""
    window_batch: int = 0
    """windows per forward; 0: as many as half of the free memory holds"""
    scheduler: str = "ddim"
    """ddim, euler, pndm, dpmpp_2m, unipc, or checkpoint for the one the model was published with"""
    time_ids: TimeIdsMode = "window"
    """what SDXL tells a window about sizes: window (an image of its own), scroll, or crop (where it lies)"""
    empty_negative: EmptyNegative = "checkpoint"
    """an empty negative prompt: all zeros, encoded like a text, or what the model's settings say"""
    long_prompt: LongPrompt = "refuse"
    """a prompt beyond 77 tokens: refuse it, truncate it with a warning, or chunk it"""


@dataclass(slots=True)
class Sampled:
    """Final scaled latents [1, C, H, W] float32 on the family's device, and what it took."""

    latents: Tensor
    facts: dict[str, Any] = field(default_factory=dict)


def plan_canvas(family: ModelFamily, settings: WindowSettings, height: int, width: int) -> Canvas:
    """The windows of a canvas given in pixels; UserError for sizes that do not fit together."""
    canvas = latent_size(height, width)
    window = _in_latents("window", settings.window or family.spec.window)
    stride = _in_latents("stride", settings.stride or _own_stride(family, settings.window))
    _require_fits(family, window, canvas, settings.window == 0)
    windows = plan_windows(*canvas, window, stride, edge=settings.edge, wrap=settings.wrap)
    return Canvas(*canvas, windows, window_weights(settings.weights, window, window))


def _own_stride(family: ModelFamily, window: int) -> int:
    return window // 4 // PIXELS_PER_LATENT * PIXELS_PER_LATENT if window else family.spec.stride


def _in_latents(word: str, pixels: int) -> int:
    if pixels % PIXELS_PER_LATENT or pixels <= 0:
        low = max(pixels // PIXELS_PER_LATENT, 1) * PIXELS_PER_LATENT
        raise UserError(
            f"The {word} of {pixels} pixels is not a positive multiple of 8.",
            hint=f"The nearest are {low} and {low + PIXELS_PER_LATENT}.",
        )
    return pixels // PIXELS_PER_LATENT


def _require_fits(family: ModelFamily, window: int, canvas: tuple[int, int], own: bool) -> None:
    if window > min(canvas):
        size = f"{canvas[0] * PIXELS_PER_LATENT}x{canvas[1] * PIXELS_PER_LATENT}"
        whose = f"{family.model_id}'s window" if own else "The window"
        raise UserError(
            f"{whose} of {window * PIXELS_PER_LATENT} pixels is larger than the canvas of {size} "
            "(height x width).",
            hint="Choose a smaller window or a larger canvas.",
        )


def check_all(family: ModelFamily, settings: Any, requests: list[Request]) -> None:
    """Everything about requests that can be wrong, raised as UserError before any of them starts."""
    for request in requests:
        check_request(request)
        make_scheduler(family, settings.scheduler, request.steps)
        check_lengths(family, [request.prompt, request.negative_prompt], settings.long_prompt)
        if isinstance(settings, WindowSettings):
            plan_canvas(family, settings, request.height, request.width)


def linear_scheduler(family: ModelFamily, name: str, steps: int) -> Any:
    """A scheduler that may take one step for all windows; UserError with the reason for others."""
    scheduler = make_scheduler(family, name, steps)
    require_linear(scheduler)
    return scheduler


def encode_request(family: ModelFamily, settings: Any, request: Request) -> PromptEmbeddings:
    """The embeddings of one request's prompt and negative prompt."""
    return encode_prompts(
        family,
        [request.prompt],
        [request.negative_prompt],
        empty_negative=settings.empty_negative,
        long_prompt=settings.long_prompt,
    )


def first_latents(family: ModelFamily, request: Request, scheduler: Any) -> Tensor:
    """Pure noise at the scheduler's first level, [1, C, h, w] float32 on the family's device.

    Drawn on the CPU from the request's seed, so that methods, devices and batches start alike.
    """
    shape = (1, family.latent_channels, *latent_size(request.height, request.width))
    return initial_noise(request.seed, shape).to(family.device) * scheduler.init_noise_sigma


def canvas_time_ids(family: ModelFamily, mode: TimeIdsMode, canvas: Canvas) -> Tensor | None:
    """The time ids of every window for SDXL, [n, 6]; None for families without micro-conditioning."""
    if family.kind != "sdxl":
        return None
    size = (canvas.height * PIXELS_PER_LATENT, canvas.width * PIXELS_PER_LATENT)
    return window_time_ids(mode, size, [scale(window, PIXELS_PER_LATENT) for window in canvas.windows])


def reporter(callback: Callback | None, request_index: int, stage: str) -> OnStep | None:
    """A callback in the form that `fusion.denoise` calls."""
    if callback is None:
        return None

    def on_step(index: int, count: int, timestep: Tensor, latents: Tensor) -> None:
        callback(
            Step(
                request_index=request_index,
                stage=stage,
                index=index,
                count=count,
                timestep=float(timestep),
                latents=latents,
            )
        )

    return on_step


def decode(family: ModelFamily, latents: Tensor, *, wrap: bool = False) -> Any:
    """The picture of final latents [1, C, h, w]; a wrapped scroll is decoded with its other end beside it."""
    margin = min(WRAP_MARGIN, latents.shape[-1]) if wrap else 0
    padded = F.pad(latents, (margin, margin, 0, 0), mode="circular") if margin else latents
    images = decode_latents(family.vae, padded)
    cut = margin * PIXELS_PER_LATENT
    return to_pil(images[..., cut : images.shape[-1] - cut])[0]


def generate_each(
    family: ModelFamily,
    requests: list[Request],
    sample: Callable[[int, Request], Sampled],
    *,
    wrap: bool = False,
) -> list[Generated]:
    """Samples and decodes requests one after the other: each scroll is the same in any company."""
    made = []
    for index, request in enumerate(requests):
        start = time.perf_counter()
        sampled = sample(index, request)
        image = decode(family, sampled.latents, wrap=wrap)
        made.append(
            Generated(
                request=request,
                image=image,
                seconds=time.perf_counter() - start,
                latents=sampled.latents[0].float().cpu(),
                facts=sampled.facts,
            )
        )
    return made
