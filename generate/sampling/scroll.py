"""From a request to its parts: windows, scheduler, embeddings, first latents; from latents to a picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch.nn.functional as F
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.blend import WeightKind, window_weights
from generate.canvas.sizes import TimeIdsMode, window_time_ids
from generate.canvas.windows import Edge, plan_windows, scale
from generate.images.vae import decode_latents, to_pil
from generate.models.prompts import EmptyNegative, LongPrompt, PromptEmbeddings, encode_prompts
from generate.models.schedulers import make_scheduler, require_linear
from generate.request import OWN, PIXELS_PER_LATENT, Callback, Request, Step, initial_noise, latent_size, own
from generate.sampling.denoising import OnStep
from generate.sampling.fusion import Canvas

if TYPE_CHECKING:
    from generate.models.family import ModelFamily, ModelSpec

WRAP_MARGIN = 8
"""Latent columns of the other end shown to the decoder on each side of a wrapped scroll."""


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How a canvas is cut into windows and put together again."""

    window: int = OWN
    """side of the square window in pixels; -1: the model's own"""
    stride: int = OWN
    """from one window to the next in pixels; -1: the model's own, or a quarter of a window that is set"""
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


Settings = TypeVar("Settings", bound=WindowSettings)


@dataclass(slots=True)
class Sampled:
    """Final scaled latents [1, C, H, W] float32 on the family's device, and what it took."""

    latents: Tensor
    facts: dict[str, Any] = field(default_factory=dict)


def plan_canvas(spec: ModelSpec, settings: WindowSettings, height: int, width: int) -> Canvas:
    """The windows of a canvas given in pixels; UserError for sizes that do not fit together."""
    canvas = latent_size(height, width)
    check_window(settings)
    settled = in_force(settings, spec)
    window, stride = settled.window // PIXELS_PER_LATENT, settled.stride // PIXELS_PER_LATENT
    if window > min(canvas):
        whose = "The model's own window" if settings.window == OWN else "The window"
        raise UserError(
            f"{whose} of {window * PIXELS_PER_LATENT} pixels is larger than the canvas of {height}x{width} "
            "(height x width).",
            hint="Choose a smaller window or a larger canvas.",
        )
    if stride > window:
        raise UserError(
            f"A stride of {stride * PIXELS_PER_LATENT} pixels is larger than the window of "
            f"{window * PIXELS_PER_LATENT}: it would leave gaps.",
            hint="A quarter of the window is usual.",
        )
    windows = plan_windows(*canvas, window, stride, edge=settings.edge, wrap=settings.wrap)
    return Canvas(*canvas, windows, window_weights(settings.weights, window, window))


def in_force(settings: Settings, spec: ModelSpec) -> Settings:
    """The settings with the model's own window and stride where none are set."""
    quarter = max(settings.window // 4, PIXELS_PER_LATENT)
    return replace(
        settings,
        window=own(settings.window, spec.window),
        stride=own(settings.stride, spec.stride if settings.window == OWN else quarter),
    )


def check_window(settings: WindowSettings) -> None:
    """UserError for a window or stride that no canvas can have."""
    for word, pixels in (("window", settings.window), ("stride", settings.stride)):
        if pixels != OWN and (pixels % PIXELS_PER_LATENT or pixels <= 0):
            low = max(pixels // PIXELS_PER_LATENT, 1) * PIXELS_PER_LATENT
            near = f"The nearest are {low} and {low + PIXELS_PER_LATENT}." if pixels > 0 else ""
            raise UserError(
                f"The {word} of {pixels} pixels is not a positive multiple of 8.",
                hint=near or "Leave it out for the model's own; a quarter of the window is a usual stride.",
            )
    if settings.window_batch < 0:
        raise UserError(f"window_batch counts windows per forward, not {settings.window_batch}.")


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
    """A callback in the form that `denoising.denoise` calls."""
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
