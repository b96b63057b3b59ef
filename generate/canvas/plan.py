"""A scroll's canvas in latents: its size, its windows and their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.blend import covered, window_weights
from generate.canvas.sizes import window_time_ids
from generate.canvas.windows import Window, plan_windows, scale
from generate.config import TimeIdsMode, WindowSettings
from generate.request import OWN, own


class Geometry(Protocol):
    """What a model says about sizes, in pixels."""

    @property
    def window(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def factor(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """A canvas in latents with its windows and their weights; two of them are the same only by identity."""

    height: int
    width: int
    windows: tuple[Window, ...]
    weights: Tensor
    """W_i of eq. 4, one for all windows, [h, w] on the CPU."""
    factor: int
    """Pixels per latent along each side."""


Settings = TypeVar("Settings", bound=WindowSettings)


def latent_size(height: int, width: int, factor: int) -> tuple[int, int]:
    """The latents' (height, width) for a canvas in pixels; UserError when `factor` does not divide it."""
    for word, size in (("height", height), ("width", width)):
        if size < factor or size % factor:
            below = max(size // factor * factor, factor)
            raise UserError(
                f"The {word} {size} is not a positive multiple of {factor} pixels, "
                "which the autoencoder makes one latent of.",
                hint=f"The nearest sizes are {below} and {below + factor}.",
            )
    return height // factor, width // factor


def whole_canvas(height: int, width: int, factor: int) -> Canvas:
    """A canvas given in pixels as its own single window."""
    h, w = latent_size(height, width, factor)
    return Canvas(h, w, plan_windows(h, w, (h, w), (h, w)), window_weights("uniform", h, w), factor)


@lru_cache(maxsize=8)
def turned(canvas: Canvas, columns: int, times: int = 1) -> Canvas:
    """The canvas with its windows so many columns to the right, going on at its start; each so many times."""
    moved = tuple(replace(w, x0=w.x0 + columns, x1=w.x1 + columns) for w in canvas.windows)
    return replace(canvas, windows=moved * times)


def plan_canvas(geometry: Geometry, settings: WindowSettings, height: int, width: int) -> Canvas:
    """The windows of a canvas given in pixels; UserError for sizes that do not fit together."""
    factor = geometry.factor
    h, w = latent_size(height, width, factor)
    check_window(settings, factor)
    settled = in_force(settings, geometry)
    if settled.window > min(height, width):
        whose = "The model's own window" if settings.window == OWN else "The window"
        raise UserError(
            f"{whose} of {settled.window} pixels is larger than the canvas of {height}x{width} "
            "(height x width).",
            hint="Choose a smaller window or a larger canvas.",
        )
    if settled.stride > settled.window:
        raise UserError(
            f"A stride of {settled.stride} pixels is larger than the window of {settled.window}: "
            "it would leave gaps.",
            hint="A quarter of the window is usual.",
        )
    side, stride = settled.window // factor, settled.stride // factor
    windows = plan_windows(h, w, side, stride, edge=settings.edge, wrap=settings.wrap)
    return Canvas(h, w, windows, window_weights(settings.weights, side, side), factor)


def in_force(settings: Settings, geometry: Geometry) -> Settings:
    """The settings with the model's own window and stride where none are set."""
    quarter = max(settings.window // 4, geometry.factor)
    return replace(
        settings,
        window=own(settings.window, geometry.window),
        stride=own(settings.stride, geometry.stride if settings.window == OWN else quarter),
    )


def check_window(settings: WindowSettings, factor: int = 1) -> None:
    """UserError for a window or stride that no canvas can have, with so many pixels per latent."""
    for word, pixels in (("window", settings.window), ("stride", settings.stride)):
        if pixels != OWN and (pixels % factor or pixels <= 0):
            low = max(pixels // factor, 1) * factor
            near = f"The nearest are {low} and {low + factor}." if pixels > 0 else ""
            raise UserError(
                f"The {word} of {pixels} pixels is not a positive "
                + (f"multiple of {factor}." if factor > 1 else "number."),
                hint=near or "Leave it out for the model's own; a quarter of the window is a usual stride.",
            )
    if settings.window_batch < 0:
        raise UserError(f"window_batch counts windows per forward, not {settings.window_batch}.")


def canvas_time_ids(mode: TimeIdsMode, canvas: Canvas) -> Tensor:
    """What SDXL is told about the sizes of every window, [n, 6] in pixels."""
    size = (canvas.height * canvas.factor, canvas.width * canvas.factor)
    return window_time_ids(mode, size, [scale(window, canvas.factor) for window in canvas.windows])


@lru_cache(maxsize=8)
def coverage(canvas: Canvas, device: torch.device) -> Tensor | None:
    """1 where a window reaches and 0 elsewhere, float32 [H, W]; None when everything is covered."""
    mask = covered(canvas.windows, canvas.height, canvas.width, device)
    return None if bool(mask.all()) else mask.float()
