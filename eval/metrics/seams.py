"""Seams: columns at which nearly every row of a scroll takes a step that its surroundings don't.

No weights. An object's edge is a step of some rows, a seam between windows is one of all: so the steps of
a column are read at a low quantile over its rows. Known borders are read at their columns, unknown anywhere.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb
from eval.metrics.salience import lab_at

ROWS = 128
"""Pixels of height at which a scroll is looked at; a seam of one latent is one or two columns wide there."""
QUANTILE = 0.25
"""The share of rows that may be without the step."""
AROUND = 6
"""Columns to each side that a row's step is compared with."""
EDGE = 0.1
"""Heights at both ends in which no seam is looked for: frames are another fault."""


def seam_strength(image: np.ndarray) -> np.ndarray:
    """Per column of an RGB scroll, uint8 [height, width, 3], how far it stands above its surroundings.

    Of each row the Lab step across the column less the median of the steps around it; then the QUANTILE over
    the rows, in Lab units; at most 0 for a column that is no seam. [width at ROWS pixels of height]
    """
    if image.shape[0] > image.shape[1]:
        image = image.transpose(1, 0, 2)
    width = max(2 * AROUND + 2, round(image.shape[1] / image.shape[0] * ROWS))
    size = (width, ROWS // 2)  # half the rows are enough for a quantile
    lab = lab_at(image, size)
    padded = np.pad(lab, ((0, 0), (1, 1), (0, 0)), mode="edge")
    steps = np.linalg.norm(padded[:, 2:] - padded[:, :-2], axis=2)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(steps, ((0, 0), (AROUND, AROUND)), mode="reflect"), 2 * AROUND + 1, axis=1
    )
    return np.quantile(steps - np.median(around, axis=2), QUANTILE, axis=0)


def inside(strength: np.ndarray) -> slice:
    """The columns that are no end of the scroll."""
    margin = round(EDGE * ROWS)
    return slice(margin, len(strength) - margin)


def at_borders(strength: np.ndarray, borders: list[float]) -> np.ndarray:
    """The strength at each border (in columns at ROWS pixels of height), at the stronger neighbour."""
    at = [round(x) for x in borders if 1 <= round(x) < len(strength) - 1]
    return np.array([strength[x - 1 : x + 1].max() for x in at])


class Seams:
    """The strongest seam anywhere in each image, for when the borders are not known."""

    name = "seam"
    unit = "Lab step of the strongest column, at the lower quartile of its rows"
    higher_is_better = False
    checkpoint = "none"
    checkpoint_hash = "seams-2"
    version = "2"
    view = "whole"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image, at least 0; prompts don't matter."""
        strengths = [seam_strength(np.asarray(rgb(image))) for image in images]
        return [float(max(0.0, strength[inside(strength)].max(initial=0.0))) for strength in strengths]


class BorderSeams:
    """The median seam at the borders of windows that begin every `stride` heights.

    A faint step at every border shows here when none of them would stand out alone. The median of the columns
    between the borders is taken away, so that a picture that is rough everywhere has no seams.
    """

    name = "border_seam"
    unit = "Lab step at the windows' borders, median"
    higher_is_better = False
    checkpoint = "none"
    checkpoint_hash = "border-seams-1"
    version = "1"
    view = "whole"

    def __init__(self, stride: float = 0.25) -> None:
        if not 0 < stride <= 1:
            raise UserError(
                f"the stride {stride} is no share of the height",
                "border_seam.stride",
                "windows that begin every 256 pixels of a height of 1024 have the stride 0.25",
            )
        self.stride = stride

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image, at least 0; prompts don't matter."""
        return [self._one(seam_strength(np.asarray(rgb(image)))) for image in images]

    def _one(self, strength: np.ndarray) -> float:
        step = self.stride * ROWS
        borders = list(np.arange(step, len(strength) - 1, step))
        if not borders:
            return 0.0
        between = np.median(strength[inside(strength)])
        return float(max(0.0, np.median(at_borders(strength, borders)) - max(0.0, between)))
