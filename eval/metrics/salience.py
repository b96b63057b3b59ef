"""What stands out of its row: the residual of a scroll's colours against a smooth background, as a field.

A scroll's sky, ridges and ground change slowly along a row; an object doesn't. So each row of the picture is
explained by a robust parabola in Lab, and what the parabola leaves is the field that repeated objects are
looked for in. Lengths are in heights of the scroll unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

ROWS = 64
"""Pixels of height at which a scroll is looked at."""
CELLS = 32
"""Cells of height of the field."""
LEVELS = ((5.0, 3.0), (9.0, 4.0), (15.0, 4.0), (25.0, 5.0))
"""Dead zones in Lab units, each with the excess at which a pixel counts half: faint things show at the first,
things that touch each other or a cloud come apart at the last."""
TYPICAL = 2.0
"""A dead zone's width beside that, in medians of the row's residual."""
CUT = 10.0
"""Lab units that nearly all rows must step at once for a hard cut between two pictures."""
LAYER = 0.55
"""What is wider than this is a layer: cloud banks, ridges, shores."""


@dataclass(frozen=True, slots=True)
class Field:
    """What stands out, on a grid CELLS high: direction and strength per cell, and where it is at all."""

    vectors: np.ndarray
    """[rows, columns, channels] float32, length 0 (background) to 1 (stands out clearly)."""
    strength: np.ndarray
    """[rows, columns] in 0..1."""

    @property
    def energy(self) -> np.ndarray:
        """[rows, columns], the squared length of `vectors`."""
        return (self.vectors**2).sum(axis=2)


def colour_field(image: np.ndarray) -> Field:
    """The field of an RGB scroll, uint8 [height, width, 3]; a tall one is looked at along its height."""
    lab = small_lab(image)
    residual = lab - background(lab)
    distance = np.linalg.norm(residual, axis=2)
    weight = standing_out(distance, cuts(lab))
    vectors = residual / np.maximum(distance, 1e-6)[..., None] * weight[..., None]
    vectors = cv2.GaussianBlur(vectors, (0, 0), 1.0)
    size = (lab.shape[1] // 2, CELLS)
    return Field(
        cv2.resize(vectors, size, interpolation=cv2.INTER_AREA),
        cv2.resize(weight, size, interpolation=cv2.INTER_AREA),
    )


def standing_out(distance: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """0..1 per pixel: how clearly it belongs to a thing, at the level of LEVELS that shows it best."""
    out = np.zeros_like(distance)
    for dead, half in LEVELS:
        above = objects_only(above_floor(distance, dead), cut)
        out = np.maximum(out, above / (above + half))
    return out


def cuts(lab: np.ndarray) -> np.ndarray:
    """Columns [columns] beside a hard cut: a step of CUT Lab units in three quarters of the rows."""
    padded = np.pad(lab, ((0, 0), (1, 1), (0, 0)), mode="edge")
    steps = np.linalg.norm(padded[:, 2:] - padded[:, :-2], axis=2)
    hard = np.quantile(steps, 0.25, axis=0) > CUT
    return cv2.dilate(hard.astype(np.uint8)[None], np.ones((1, 5), np.uint8))[0] > 0


def lab_at(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """CIE Lab [height, width, 3] (L 0..100) of an RGB picture, area-averaged to `size`, (width, height)."""
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def small_lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab [ROWS, columns, 3] (L 0..100) of an RGB scroll, area-averaged, a little blurred."""
    if image.shape[0] > image.shape[1]:
        image = image.transpose(1, 0, 2)
    width = 2 * max(1, round(image.shape[1] / image.shape[0] * ROWS / 2))
    return cv2.GaussianBlur(lab_at(image, (width, ROWS)), (0, 0), 0.8)


def background(lab: np.ndarray, rounds: int = 6) -> np.ndarray:
    """Each row's background [rows, columns, 3]: a parabola along the row that heeds no outlier.

    Iterated least squares with Tukey's weights on the Lab distance, shared by the channels; begins at the
    row's median. Fitted on every fourth column.
    """
    columns = np.linspace(-1, 1, lab.shape[1])
    powers = np.stack([np.ones_like(columns), columns, columns**2], axis=1)
    seen, basis = lab[:, ::4].astype(np.float64), powers[::4]
    fit = np.repeat(np.median(seen, axis=1, keepdims=True), seen.shape[1], axis=1)
    for _ in range(rounds):
        distance = np.linalg.norm(seen - fit, axis=2)
        scale = np.maximum(6.0, 1.5 * np.median(distance, axis=1, keepdims=True))
        weight = np.maximum(0, 1 - (distance / (2.5 * scale)) ** 2) ** 2 + 0.001
        normal = np.einsum("rc,ci,cj->rij", weight, basis, basis)
        right = np.einsum("rc,ci,rck->rik", weight, basis, seen)
        solved = np.linalg.solve(normal, right)
        fit = np.einsum("ci,rik->rck", basis, solved)
    return np.einsum("ci,rik->rck", powers, solved).astype(np.float32)


def above_floor(distance: np.ndarray, dead: float, typical: float = TYPICAL) -> np.ndarray:
    """What of each pixel's distance lies above its row's dead zone; the floor is smoothed over rows."""
    floor = cv2.GaussianBlur(np.median(distance, axis=1).astype(np.float32)[:, None], (1, 0), 0, sigmaY=2.0)
    return np.maximum(0, distance - dead - typical * floor).astype(np.float32)


def objects_only(salient: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Without layers, specks and frames: what stands, no wider than LAYER.

    Takes away the grey opening by a horizontal line. Of what is left, parts stay (joined over vertical gaps
    of 0.08 heights, as a lighthouse's stripes are) that have an area of 0.003 square heights, a height of
    0.08 to 0.75 and no less than 0.4 of their width. No lying bar and no filled field wider than 0.75 heights
    stays, no upright bar at an end of the scroll (a frame), and nothing that ends at a hard cut, as the
    sky of another picture does.
    """
    rows = salient.shape[0]
    line = np.ones((1, 2 * round(LAYER * rows / 2) + 1), np.uint8)
    margin = line.shape[1]
    padded = cv2.copyMakeBorder(salient, 0, 0, margin, margin, cv2.BORDER_CONSTANT, value=0)
    left = np.maximum(0, salient - cv2.morphologyEx(padded, cv2.MORPH_OPEN, line)[:, margin:-margin])
    on = (left > 0).astype(np.uint8)
    gap = 2 * round(0.04 * rows) + 1
    padded = cv2.copyMakeBorder(on, gap, gap, 0, 0, cv2.BORDER_CONSTANT, value=0)
    joined = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((gap, 1), np.uint8))[gap:-gap]
    count, parts, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    area = np.bincount(parts.ravel(), on.ravel(), count)
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    keep = (area >= 0.003 * rows**2) & (height >= max(0.08 * rows, 1)) & (height <= 0.75 * rows)
    keep &= (height >= 0.4 * width) & ~((width >= 0.75 * rows) & (area >= 0.45 * width * height))
    keep &= ~((width >= 1.2 * height) & (area >= 0.8 * width * height))
    ends = (stats[:, cv2.CC_STAT_LEFT] == 0) | (stats[:, cv2.CC_STAT_LEFT] + width == salient.shape[1])
    keep &= ~(ends & (height >= 2 * width))
    keep[np.unique(parts[:, cut])] = False
    keep[0] = False
    return left * keep[parts]
