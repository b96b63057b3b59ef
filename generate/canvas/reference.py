"""A canvas seen small: references that pick one latent from every cell, and their way back (no networks).

The reference of a canvas is a grid of cells of about the training size; each cell holds two by two places of
the canvas. A reference picks one place in every cell, and several with different places see the whole canvas
(ElasticDiffusion, Haji-Ali et al. 2024, section 4.2). Where canvas and reference are not in the ratio of two,
the places are the rows and columns of the doubled canvas that even steps of the ratio keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PLACES = 4
"""In a cell, counted row by row: 0 is the top left one."""


@dataclass(frozen=True)
class Reference:
    """The cells of a canvas of (height, width) latents for networks trained on squares of `side` latents."""

    height: int
    width: int
    side: int

    @property
    def size(self) -> tuple[int, int]:
        """The reference's (height, width): the longer side is the training square's."""
        longest = max(self.height, self.width)
        return self.height * self.side // longest, self.width * self.side // longest

    @property
    def cells(self) -> int:
        """How many places a reference picks."""
        height, width = self.size
        return height * width

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Latents that the square has before and after the reference: of rows, of columns."""
        return _around(self.size[0], self.side), _around(self.size[1], self.side)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        return _kept(self.height, self.size[0]), _kept(self.width, self.size[1])

    def picked(self, canvas: Tensor, index: Tensor) -> Tensor:
        """References [n, C, rh, rw] of a canvas [1, C, H, W], by the places [n, cells] of every cell."""
        rows, columns = (places.to(canvas.device) for places in self._places)
        height, width = self.size
        seen = canvas[0][:, rows][:, :, columns].reshape(-1, height, 2, width, 2)
        cells = seen.permute(0, 1, 3, 2, 4).reshape(1, len(seen), height * width, PLACES)
        chosen = index.to(canvas.device).view(len(index), 1, -1, 1).expand(-1, len(seen), -1, 1)
        return cells.expand(len(index), -1, -1, -1).gather(3, chosen).view(-1, len(seen), height, width)

    def spread(self, small: Tensor) -> Tensor:
        """References [n, C, rh, rw] at the canvas's size, every cell of one value."""
        return torch.nn.functional.interpolate(small, size=(self.height, self.width), mode="nearest")

    def shrunk(self, canvas: Tensor) -> Tensor:
        """The canvas [n, C, H, W] at the reference's size, by the nearest place."""
        return torch.nn.functional.interpolate(canvas, size=self.size, mode="nearest")

    def filled(self, small: Tensor, index: Tensor) -> Tensor:
        """The canvas [1, C, H, W] of references [n, C, rh, rw] that picked these places [n, cells].

        Each is written where it picked, later ones over earlier ones; what none picked is the last one's.
        """
        large = self.spread(small)
        canvas, written = large[-1:].clone(), torch.zeros_like(large[:1, :1], dtype=torch.bool)
        for one, places in zip(large.split(1), index, strict=True):
            mask = self._mask(places).to(one.device)
            canvas, written = torch.where(mask, one, canvas), written | mask
        return torch.where(written, canvas, large[-1:])

    def _mask(self, places: Tensor) -> Tensor:
        """Where on the canvas a reference picked: bool [1, 1, H, W]."""
        height, width = self.size
        cells = torch.nn.functional.one_hot(places.long(), PLACES).view(height, width, 2, 2)
        grid = cells.permute(0, 2, 1, 3).reshape(1, 1, 2 * height, 2 * width).float()
        return torch.nn.functional.interpolate(grid, size=(self.height, self.width), mode="nearest") > 0


def _kept(size: int, cells: int) -> Tensor:
    """The canvas's rows that the cells' places are: of each cell two, of the doubled canvas even steps."""
    return (torch.arange(2 * cells) * size // cells) // 2


def _around(size: int, side: int) -> tuple[int, int]:
    before = (side - size) // 2
    return before, side - size - before


def draw_places(cells: int, count: int, new_share: float, generator: torch.Generator) -> Tensor:
    """Places of `count` references, int64 [count, cells]: the first has the top left of every cell.

    Each further one takes in a cell, with probability `new_share`, a place that none before it took there,
    else that of the one before it.
    """
    drawn = [torch.zeros(cells, dtype=torch.int64)]
    used = torch.nn.functional.one_hot(drawn[0], PLACES).bool()
    for _ in range(count - 1):
        lottery = torch.rand((cells, PLACES), generator=generator).masked_fill(used, -1.0)
        moves = (torch.rand(cells, generator=generator) < new_share) & ~used.all(1)
        places = torch.where(moves, lottery.argmax(1), drawn[-1])
        used = used | torch.nn.functional.one_hot(places, PLACES).bool()
        drawn.append(places)
    return torch.stack(drawn)


@dataclass(frozen=True, slots=True)
class Core:
    """Along one axis: what a window is for (start, stop), and what of the canvas it is shown."""

    start: int
    stop: int
    shown_from: int
    shown_to: int


def cores(size: int, side: int) -> Sequence[Core]:
    """An axis in pieces of half the training side, each shown with as much again around it.

    At the ends the context lies on the inner side, so that all are shown `side` latents; an axis no longer
    than that is one piece. The last piece is flush with the end, and is for what those before it are not.
    """
    if size <= side:
        return [Core(0, size, 0, size)]
    piece = side // 2
    starts = [*range(0, size - piece + 1, piece)]
    starts += [size - piece] if starts[-1] + piece < size else []
    found, done = [], 0
    for start in starts:
        left = min(max(start - (side - piece) // 2, 0), size - side)
        found.append(Core(done, start + piece, left, left + side))
        done = start + piece
    return found
