"""SDXL's micro-conditioning: what each window is told about sizes and offsets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from generate.canvas.windows import Window
from generate.config import TimeIdsMode


def time_ids(
    mode: TimeIdsMode, canvas: tuple[int, int], window: Window | None = None
) -> tuple[int, int, int, int, int, int]:
    """(original h, w, crop top, left, target h, w) in pixels, as SDXL expects them (Podell et al. 2023, 2.2).

    scroll tells every window the whole canvas, (H, W, 0, 0, H, W); window pretends each is an image of its
    own, (h, w, 0, 0, h, w), as MAD does; crop tells the truth, (H, W, y0, x0, h, w). `canvas` and `window`
    in pixels; no window means the whole canvas. A wrapped window's offset is counted modulo the width.
    """
    height, width = canvas
    box = window if window is not None else Window(0, height, 0, width)
    if mode == "scroll":
        return (height, width, 0, 0, height, width)
    if mode == "window":
        return (box.height, box.width, 0, 0, box.height, box.width)
    if mode == "crop":
        return (height, width, box.y0, box.x0 % width, box.height, box.width)
    raise ValueError(f"unknown micro-conditioning {mode!r}")


def window_time_ids(mode: TimeIdsMode, canvas: tuple[int, int], windows: Sequence[Window]) -> Tensor:
    """time_ids of every window (canvas and windows in pixels): float32 [n, 6]."""
    return torch.tensor([time_ids(mode, canvas, window) for window in windows], dtype=torch.float32)
