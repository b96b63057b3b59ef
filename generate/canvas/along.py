"""How much each passage of a scroll has to say in a window, or at a column."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generate.canvas.plan import Canvas
from generate.passages import Passage

BORDER = 1 / 4
"""Of the canvas's height: how wide a border is across which one passage fades into the next."""


def window_shares(canvas: Canvas, passages: Sequence[Passage]) -> list[int | tuple[float, ...]]:
    """For each window the number of its passage, or where it lies across borders each one's share of it.

    A wrapped window continues at the canvas's start, and so do the shares.
    """
    return [_share(window.x0, window.x1, canvas.width, passages) for window in canvas.windows]


def _share(start: int, stop: int, width: int, passages: Sequence[Passage]) -> int | tuple[float, ...]:
    inside = []
    for passage in passages:
        left, right = passage.start * width, passage.stop * width
        turns = (0, width, -width)  # a window may reach beyond either end of a ring
        inside.append(sum(max(0.0, min(stop, right + t) - max(start, left + t)) for t in turns))
    shares = tuple(round(length / sum(inside), 6) for length in inside)
    return shares.index(1.0) if 1.0 in shares else shares


def column_shares(canvas: Canvas, passages: Sequence[Passage], *, wrap: bool = False) -> Tensor:
    """Each passage's share of every column, [passages, W] float32: linear across borders, elsewhere 0 or 1.

    On a wrapped canvas the last passage fades into the first one.
    """
    wide = max(1.0, canvas.height * BORDER)
    at = torch.arange(canvas.width, dtype=torch.float64) + 0.5
    shares = torch.stack(
        [
            _fades(at, p.start * canvas.width, p.stop * canvas.width, wide, canvas.width, wrap)
            for p in passages
        ]
    )
    return (shares / shares.sum(0)).float()


def _fades(at: Tensor, left: float, right: float, wide: float, width: int, wrap: bool) -> Tensor:
    """1 inside the range, falling to 0 across its borders; ends of a canvas are none, but on a ring."""
    if right - left >= width:
        return torch.ones_like(at)
    turns = (0, width, -width) if wrap else (0,)
    faded = torch.zeros_like(at)
    for turn in turns:
        rising = torch.full_like(at, torch.inf) if left == 0 and not wrap else at - left - turn
        falling = torch.full_like(at, torch.inf) if right == width and not wrap else right + turn - at
        faded = torch.maximum(faded, (torch.minimum(rising, falling) / wide + 0.5).clamp(0, 1))
    return faded
