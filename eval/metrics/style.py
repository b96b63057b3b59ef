"""Style dispersion (STY): how differently the windows of one scroll are coloured and lit.

No weights. Each window is described by the typical Lab colour of each of its rows, a median over columns
that objects hardly move; the number is how far windows stand from the scroll's own rows. It is 0 for four
copies of one picture, as every distance between crops is: read it beside the surplus objects, never alone.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from drspo.files.pictures import rgb
from eval.metrics.salience import small_lab

SAME = 5.0
"""Lab units by which windows of one scene differ."""


def row_profiles(lab: np.ndarray) -> np.ndarray:
    """[windows, rows, 3]: the median Lab colour of each row in square windows half a height apart."""
    rows, columns = lab.shape[:2]
    starts = range(0, max(1, columns - rows + 1), max(1, rows // 2))
    return np.stack([np.median(lab[:, start : start + rows], axis=1) for start in starts])


def style_dispersion(image: np.ndarray) -> float:
    """Root mean square over windows of the median over rows of the Lab distance to the scroll's own row.

    Distances up to SAME count as none: ridges and shores of one scene differ by as much.
    """
    profiles = row_profiles(small_lab(image))
    middle = np.median(profiles, axis=0, keepdims=True)
    apart = np.median(np.linalg.norm(profiles - middle, axis=2), axis=1)
    return float(np.sqrt((np.maximum(0, apart - SAME) ** 2).mean()))


class Style:
    """The dispersion of colour and light over each image's windows."""

    name = "style"
    unit = "Lab distance of windows"
    higher_is_better = False
    checkpoint = "none"
    checkpoint_hash = "style-1"
    version = "1"
    view = "windows"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image; prompts don't matter."""
        return [style_dispersion(np.asarray(rgb(image))) for image in images]
