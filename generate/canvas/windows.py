"""Window plans: the crops F_i and their pasting back F_i^-1, in integers only (no torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drspo.errors import UserError
from generate.config import Edge


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of the canvas, ends excluded; on a wrapped canvas x1 may exceed the width."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width


def plan_windows(
    height: int,
    width: int,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    *,
    edge: Edge = "flush",
    wrap: bool = False,
) -> tuple[Window, ...]:
    """The windows of a canvas, row by row, in the canvas's own unit (latents or pixels).

    `flush` shifts the last window of an axis back to the edge so that everything is covered;
    `uncovered` leaves the rest of the axis out, as the published MultiDiffusion code does.
    `wrap` joins the left and right ends: windows start all along the width and continue from its start.
    Raises UserError for a window larger than the canvas and for a stride of zero or beyond the window.
    MultiDiffusion (Bar-Tal et al. 2023), eq. 3; DRSPO, section 3.
    """
    window_h, window_w = _pair(window)
    stride_h, stride_w = _pair(stride)
    rows = _starts(height, window_h, stride_h, edge, "high")
    columns = (
        _wrapped_starts(width, window_w, stride_w, edge)
        if wrap
        else _starts(width, window_w, stride_w, edge, "wide")
    )
    return tuple(Window(y, y + window_h, x, x + window_w) for y in rows for x in columns)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(size: int, window: int, stride: int, word: str) -> None:
    if window < 1:
        raise UserError(f"A window must be at least 1 {word}, not {window}.")
    if window > size:
        raise UserError(
            f"The window is {window} {word}, larger than the canvas, which is {size} {word}.",
            hint=f"Choose a window of at most {size}, or a larger canvas.",
        )
    if not 1 <= stride <= window:
        raise UserError(
            f"A stride of {stride} is not between 1 and the window's {window}.",
            hint="A stride beyond the window would leave gaps; a quarter of the window is usual.",
        )


def _starts(size: int, window: int, stride: int, edge: Edge, word: str) -> list[int]:
    _check(size, window, stride, word)
    starts = list(range(0, size - window + 1, stride))
    if edge == "flush" and starts[-1] + window < size:
        starts.append(size - window)
    return starts


def _wrapped_starts(width: int, window: int, stride: int, edge: Edge) -> list[int]:
    _check(width, window, stride, "wide")
    if width == window:
        return [0]
    count = width // stride if edge == "uncovered" else -(-width // stride)
    return [i * stride for i in range(count)]


def scale(window: Window, factor: int) -> Window:
    """The same window on a canvas `factor` times finer (latents to pixels)."""
    return Window(window.y0 * factor, window.y1 * factor, window.x0 * factor, window.x1 * factor)


def shrink(window: Window, factor: int) -> Window:
    """The same window on a canvas `factor` times coarser (feature maps of the UNet).

    Raises UserError when the window does not lie on the coarser grid.
    """
    sides = (window.y0, window.y1, window.x0, window.x1)
    if any(side % factor for side in sides):
        raise UserError(
            f"Window {sides} does not lie on a grid {factor} times coarser.",
            hint=f"Make canvas, window and stride multiples of {factor} latents.",
        )
    return Window(*(side // factor for side in sides))


def window_shape(windows: Sequence[Window]) -> tuple[int, int]:
    """The one (height, width) that all windows share; ValueError when they differ or there are none."""
    shapes = {window.shape for window in windows}
    if len(shapes) != 1:
        raise ValueError(f"windows of one plan share one shape, got {sorted(shapes)}")
    return shapes.pop()


@lru_cache(maxsize=64)
def crop_index(windows: tuple[Window, ...], height: int, width: int) -> np.ndarray:
    """F_i as a gather: flat canvas index of every window element, int64 [n, h, w]; columns wrap around."""
    window_shape(windows)
    rows = np.stack([np.arange(w.y0, w.y1) for w in windows])
    columns = np.stack([np.arange(w.x0, w.x1) % width for w in windows])
    if rows.min() < 0 or rows.max() >= height:
        raise ValueError(f"windows reach rows {rows.min()}..{rows.max()} of a canvas {height} high")
    index = rows[:, :, None] * width + columns[:, None, :]
    index.flags.writeable = False
    return index


@lru_cache(maxsize=64)
def paste_index(windows: tuple[Window, ...], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """F_i^-1 as a gather: for each canvas element the window elements that cover it.

    Returns (source, valid), both [k, height * width] with k the largest overlap: `source` indexes the
    flattened window elements [n * h * w] in window order (0 where `valid` is False). A gather in a fixed
    order sums alike on every device, which a scatter with atomic additions does not.
    """
    flat = crop_index(windows, height, width).ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=height * width)
    first = np.cumsum(counts) - counts
    ranks = np.arange(max(int(counts.max()), 1))[:, None]
    valid = ranks < counts
    source = np.where(valid, order[np.minimum(first + ranks, flat.size - 1)], 0)
    source.flags.writeable = valid.flags.writeable = False
    return source, valid
