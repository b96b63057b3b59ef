"""How faithful the autoencoder's copies are where PSNR does not look: frame, grid, flat grounds, edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miniature.scene import SUBJECTS, Thing

FRAME = 3  # columns along each side in which a frame shows
INSIDE = 16  # pixels from a side where the inside begins
CELL = 8  # pixels to a latent: the period of a grid
EDGE = 16.0  # grey levels a pixel, from which on the drawing has an edge


def flat_pictures(size: tuple[int, int]) -> np.ndarray:
    """Eight pictures of one colour each, from skies and grounds (8 x height x width x 3, uint8)."""
    colours = np.array(
        [(92, 164, 234), (206, 184, 214), (142, 52, 116), (14, 24, 62), (18, 72, 124), (134, 182, 84),
         (240, 200, 130), (196, 212, 236)], np.uint8,
    )  # fmt: skip
    return np.broadcast_to(colours[:, None, None], (8, *size, 3)).copy()


def frame(pictures: np.ndarray) -> tuple[float, float]:
    """The worst border column's step to its neighbour, and the mean step inside, in grey levels."""
    steps = np.abs(np.diff(pictures.astype(np.float32), axis=2)).mean(axis=(0, 1, 3))
    worst = max(steps[:FRAME].max(), steps[-FRAME:].max())
    return float(worst), float(steps[INSIDE:-INSIDE].mean())


def spread(pictures: np.ndarray) -> float:
    """How uneven pictures are that should be flat: their standard deviation in grey levels."""
    return float(pictures.astype(np.float32).std(axis=(1, 2)).mean())


def grid(pictures: np.ndarray) -> float:
    """What repeats from cell to cell inside pictures that should be flat: its deviation in grey levels."""
    inner = pictures[:, INSIDE:-INSIDE, INSIDE:-INSIDE].astype(np.float32)
    count, height, width, channels = inner.shape
    cells = inner.reshape(count, height // CELL, CELL, width // CELL, CELL, channels).mean(axis=(1, 3))
    return float(cells.std(axis=(1, 2)).mean())


def sharpness(drawn: np.ndarray, copies: np.ndarray, things: Sequence[Sequence[Thing]]) -> float:
    """How steep the copies are where the drawn subjects have edges: 1 as steep, 0 flat."""
    wanted = shown = 0.0
    for picture, copy, inside in zip(drawn, copies, things, strict=True):
        left, top, right, bottom = next(thing.box for thing in inside if thing.name in SUBJECTS)
        box = (slice(max(0, int(top)), int(bottom)), slice(max(0, int(left)), int(right)))
        steep = gradient(picture)[box]
        edges = steep > EDGE
        wanted += steep[edges].sum()
        shown += gradient(copy)[box][edges].sum()
    return float(shown / wanted)


def gradient(picture: np.ndarray) -> np.ndarray:
    """The length of the step to the next pixels, mean over the colours, in grey levels a pixel."""
    values = picture.astype(np.float32)
    across, down = np.diff(values, axis=1)[:-1], np.diff(values, axis=0)[:, :-1]
    return np.sqrt(across**2 + down**2).mean(-1)
