"""Border frames: flat margins, bars and frames that a model painted around its picture. No weights."""

from __future__ import annotations

import numpy as np
from PIL import Image

from drspo.files.pictures import rgb
from eval.metrics.salience import lab_at

ROWS = 128
LARGEST = 0.2
"""Heights of a side that are looked at."""
FLAT = 4.0
"""Lab spread along a line that is still one colour."""
STEP = 8.0
"""Lab step that ends a frame, at the lower fifth of the line."""


def frame_share(image: np.ndarray) -> float:
    """How much of the height the thickest flat margin takes, of any side of an RGB picture; 0 without any.

    A margin is a run of lines from the edge inwards, each of one colour, that ends in a step. A clear sky's
    rows are of one colour too, but no step ends them.
    """
    scale = ROWS / min(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    lab = lab_at(image, (width, height))
    sideways = lab.transpose(1, 0, 2)
    return max(_margin(side) for side in (lab, lab[::-1], sideways, sideways[::-1])) / ROWS


def _margin(lines: np.ndarray) -> int:
    """Lines of the margin at the first side of [lines, along, 3]; 0 without a step that ends it."""
    reach = round(LARGEST * ROWS)
    lines = lines[: reach + 3]
    along = lines[:, lines.shape[1] // 5 : -(lines.shape[1] // 5)]  # other sides' frames cross the ends
    middle = np.median(along, axis=1, keepdims=True)
    flat = np.quantile(np.linalg.norm(along - middle, axis=2), 0.9, axis=1) < FLAT
    same = np.linalg.norm(middle[:, 0] - middle[0, 0], axis=1) < FLAT
    for line in range(1, len(lines) - 2):
        if not (flat[line - 1] and same[line - 1]):
            return 0
        steps = np.linalg.norm(along[line + 1] - along[line - 1], axis=1)
        if np.quantile(steps, 0.2) > STEP:
            return line
    return 0


class BorderFrame:
    """The share of the height that the thickest flat margin of each image takes."""

    name = "border_frame"
    unit = "share of the height"
    higher_is_better = False
    checkpoint = "none"
    checkpoint_hash = "border-frame-1"
    version = "1"
    view = "whole"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One share per image; prompts don't matter."""
        return [frame_share(np.asarray(rgb(image))) for image in images]
