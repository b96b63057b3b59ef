"""A blueprint to the line art that steers the windows (eq. 11): I_canny = Canny(I_LR), at the scroll's
size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from PIL import Image

from drspo.errors import UserError
from drspo.ranges import Range
from generate.canvas.plan import Canvas
from generate.canvas.windows import scale
from generate.images.ring import on_ring

LANCZOS = Image.Resampling.LANCZOS
LARGEST_BLUR = 64
"""Pixels, beyond which no outline is left."""


@dataclass(frozen=True, kw_only=True)
class LineArt:
    """Canny's settings, in grey levels and pixels of the scroll.

    The thresholds are half of those that canny ControlNets are trained with (100 and 200 on sharp pictures):
    a blueprint enlarged to twice its size has gradients half as steep.
    """

    low: Annotated[int, Range(0, 100_000)] = 50
    """gradient below which a pixel is never an edge"""
    high: Annotated[int, Range(0, 100_000)] = 100
    """gradient above which a pixel always is one"""
    blur: Annotated[float, Range(0, 1000)] = 0.0
    """standard deviation of a Gaussian in front of it, in pixels; 0: none"""


def check_lines(settings: LineArt) -> None:
    """UserError for settings that draw no line art."""
    if not 0 < settings.low <= settings.high:
        raise UserError(
            f"Canny's thresholds must satisfy 0 < low <= high, not {settings.low} and {settings.high}"
        )
    if not 0 <= settings.blur <= LARGEST_BLUR:  # also false for NaN
        raise UserError(f"control.lines.blur lies within 0 to {LARGEST_BLUR} pixels, not at {settings.blur}")


def draw_lines(image: Image.Image, settings: LineArt, *, wrap: bool = False) -> Image.Image:
    """White lines on black, RGB, of the picture's size: what canny ControlNets were trained on."""
    check_lines(settings)
    return on_ring(lambda i: _lines(i, settings), image) if wrap else _lines(image, settings)


def _lines(image: Image.Image, settings: LineArt) -> Image.Image:
    grey = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2GRAY)
    if settings.blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), settings.blur)
    edges = cv2.Canny(grey, settings.low, settings.high)
    return Image.fromarray(np.repeat(edges[:, :, None], 3, axis=2))


def enlarge(image: Image.Image, height: int, width: int, *, wrap: bool = False) -> Image.Image:
    """The picture at the scroll's size (pixels), by Lanczos; the aspect ratio must be the scroll's own.

    The paper keeps one aspect ratio k for both resolutions; another one would stretch what the plan shows.
    """
    if image.height * width != image.width * height:
        raise UserError(
            f"A blueprint of {image.height}x{image.width} and a scroll of {height}x{width} "
            "differ in aspect ratio",
            hint="Give the blueprint the scroll's aspect ratio (height/width).",
        )
    if image.size == (width, height):
        return image
    if wrap and width % image.width == 0:
        times = width // image.width
        return on_ring(lambda i: i.resize((i.width * times, i.height * times), LANCZOS), image)
    return image.resize((width, height), LANCZOS)


def control_crops(lines: Image.Image, canvas: Canvas) -> torch.Tensor:
    """F_i(I_canny) for every window, in pixels: [n, 3, H, W] float32 in 0..1. A wrapped window wraps here
    too."""
    pixels = torch.from_numpy(np.array(lines)).permute(2, 0, 1).float() / 255
    boxes = [scale(window, canvas.factor) for window in canvas.windows]
    width = pixels.shape[2]
    columns = [torch.arange(box.x0, box.x1) % width for box in boxes]
    return torch.stack([pixels[:, box.y0 : box.y1][:, :, c] for box, c in zip(boxes, columns, strict=True)])
