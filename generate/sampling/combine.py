"""Windows to canvas and back, in the form that the loop's tensors have."""

from __future__ import annotations

from torch import Tensor

from generate.canvas.blend import blend, crop
from generate.canvas.plan import Canvas, coverage


def cut(canvas: Canvas, latents: Tensor) -> Tensor:
    """F_i of eq. 3 for all windows: the canvas [1, C, H, W] to [n, C, h, w]."""
    return crop(latents, canvas.windows)[:, 0]


def combine(canvas: Canvas, windows: Tensor) -> Tensor:
    """The weighted average of eq. 4: [n, C, h, w] to the canvas [1, C, H, W], 0 where no window reaches."""
    return blend(windows[:, None], canvas.windows, canvas.weights, canvas.height, canvas.width)


def covered_only(canvas: Canvas, latents: Tensor) -> Tensor:
    """The canvas, zero where no window reaches."""
    keep = coverage(canvas, latents.device)
    return latents if keep is None else latents * keep
