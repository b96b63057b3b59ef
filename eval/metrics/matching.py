"""In how many other places the things of a field stand again, and how many of them are therefore too many.

Every cell of a thing is compared, with what surrounds it in that thing alone, to every cell of all things: at
another column, a little higher or lower, and mirrored. What is one thing many times counts all of it but one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from eval.metrics.salience import Field

NEAR = 14
"""Cells: within 0.44 heights a place is the thing itself; a castle's two towers are one castle."""
MIRRORED = 20
"""Cells: a mirror image nearer than 0.62 heights is the other half of a symmetric thing."""
WHOLE = 24
"""Cells: connected parts nearer than 0.75 heights are parts of one thing."""
APART = 9
"""Cells: two places nearer than 0.28 heights are one."""
LIFT = 5
"""Cells by which a copy may stand higher or lower: 0.16 heights. A sun and a cloud's edge differ by more."""
REACH, RADIUS = 4.0, 9
"""The Gaussian window in cells (0.125 heights) within which two places are compared, and where it ends."""


@dataclass(frozen=True, slots=True, order=True)
class Gate:
    """The likeness from which a place counts as another one of a kind, and from which it counts fully."""

    low: float = 0.70
    full: float = 0.92


@dataclass(frozen=True, slots=True)
class Repeats:
    """What stands more than once in a field."""

    others: np.ndarray
    """[rows, columns]: in how many other places what stands here stands again."""
    surplus: float
    """Things beyond the first of their kind: n copies count n - 1."""


def repeats(field: Field, gate: Gate) -> Repeats:
    """The repeated things of a field (see `repeats_at`)."""
    return repeats_at(field, [gate])[0]


def repeats_at(field: Field, gates: Sequence[Gate]) -> list[Repeats]:
    """The repeated things of a field at each gate; what is compared is compared once.

    A thing that stands in m other places counts 1 - 1 / (1 + m), weighted by its cells' energy and by how
    clearly it is there at all; so n equal things together count n - 1 and different ones nothing.
    """
    count, labels = things(field)
    cells = _cells(field, count, labels)
    places = _places(cells, field.energy.shape[1], gates)
    energy = field.energy * (field.energy > FAINT)
    whole = np.bincount(labels.ravel(), energy.ravel(), count)[1:]
    present = np.minimum(1, whole / PRESENT)
    found = []
    for some in places:
        others = np.zeros(energy.shape, np.float32)
        others[cells.rows, cells.columns] = some
        repeated = np.bincount(labels.ravel(), (energy * (1 - 1 / (1 + others))).ravel(), count)[1:]
        found.append(Repeats(others, float((present * repeated / np.maximum(whole, 1e-9)).sum())))
    return found


FAINT = 0.02
"""Energy below which a cell is background."""
PRESENT = 0.8
"""Energy from which a thing is wholly there: a clear disc of 0.02 square heights has as much."""


def things(field: Field) -> tuple[int, np.ndarray]:
    """Connected parts of what stands out: their number with the background's, and a label for each cell."""
    mask = cv2.dilate((field.strength > 0.15).astype(np.uint8), np.ones((3, 1), np.uint8))
    return cv2.connectedComponents(mask, connectivity=8)


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of all things: where, of which thing, and the window around each with that thing alone."""

    rows: np.ndarray
    columns: np.ndarray
    labels: np.ndarray
    windows: np.ndarray
    """[cells, channels, points]; every other point of a square, as on a chessboard, is enough."""
    mirrored: np.ndarray
    """The same windows seen in a mirror."""


def _cells(field: Field, count: int, labels: np.ndarray) -> _Cells:
    side = 2 * RADIUS + 1
    kernel = cv2.getGaussianKernel(side, REACH)
    board = np.add.outer(np.arange(side), np.arange(side)) % 2 == 0
    weight = np.sqrt(2 * kernel @ kernel.T)[board].astype(np.float32)
    flip = np.zeros((side, side), int)
    flip[board] = np.arange(board.sum())
    flip = flip[:, ::-1][board]
    clear = field.energy > FAINT
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for label in range(1, count):
        own = labels == label
        rows, columns = np.nonzero(own & clear)
        if not len(rows):
            continue
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        alone = (field.vectors[box] * own[box][..., None]).astype(np.float32)
        padded = np.pad(alone, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
        found.append(
            (rows, columns, windows[rows - box[0].start, columns - box[1].start][..., board] * weight)
        )
    if not found:
        none = np.zeros(0, int)
        empty = np.zeros((0, field.vectors.shape[2], len(weight)), np.float32)
        return _Cells(none, none, none, empty, empty)
    rows, columns, windows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Cells(rows, columns, labels[rows, columns], windows, windows[..., flip])


def _places(cells: _Cells, width: int, gates: Sequence[Gate], batch: int = 512) -> np.ndarray:
    """[gates, cells]: for each cell the gated maxima of its likeness along the columns, added up."""
    order = np.argsort(cells.columns, kind="stable")
    first = np.flatnonzero(np.diff(cells.columns[order], prepend=-1))
    out = np.zeros((len(gates), len(cells.rows)), np.float32)
    for start in range(0, len(cells.rows), batch):
        some = slice(start, start + batch)
        best = np.maximum.reduceat(_likeness(cells, some)[:, order], first, axis=1)
        line = np.zeros((width, best.shape[0]), np.float32)
        line[cells.columns[order][first]] = best.T
        crest = cv2.dilate(line, np.ones((2 * APART + 1, 1), np.uint8))
        for number, gate in enumerate(gates):
            passed = np.clip((line - gate.low) / (gate.full - gate.low), 0, 1)
            out[number, some] = (passed * (line >= crest)).sum(axis=0)
    return out


def _likeness(cells: _Cells, some: slice) -> np.ndarray:
    """[some, cells] in -1..1: twice the scalar product of two windows over the sum of their energies.

    A ratio that a faint place and a strong one don't reach, as a cosine would let them. The window itself or
    its mirror image, whichever is more like; 0 for places that can't be another thing.
    """
    flat = cells.windows.reshape(len(cells.windows), -1)
    mirrored = cells.mirrored.reshape(flat.shape)
    energy = (flat**2).sum(axis=1)
    both = energy[some, None] + energy[None] + np.float32(0.01)
    along = np.abs(cells.columns[some, None] - cells.columns[None])
    up = np.abs(cells.rows[some, None] - cells.rows[None])
    plain = np.where(along >= NEAR, 2 * (flat[some] @ flat.T) / both, 0)
    mirror = np.where(along >= MIRRORED, 2 * (flat[some] @ mirrored.T) / both, 0)
    elsewhere = (up <= LIFT) & ((cells.labels[some, None] != cells.labels[None]) | (along >= WHOLE))
    return np.where(elsewhere, np.maximum(plain, mirror), 0)
