"""Seams: how much the colour jumps between neighbouring columns more than its surroundings do.

No weights. A faint step at every window border shows in the median over borders, a single hard cut in the
maximum; a scroll is free of seams when both are near zero.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def column_steps(image: np.ndarray) -> np.ndarray:
    """Mean absolute Lab step [width - 1] between neighbouring columns of an RGB image [height, width, 3]."""
    import cv2

    lab = cv2.cvtColor(np.ascontiguousarray(image, dtype=np.uint8), cv2.COLOR_RGB2LAB).astype(np.float64)
    return np.abs(np.diff(lab, axis=1)).mean(axis=(0, 2))


def robust_z(steps: np.ndarray, radius: int = 12, floor: float = 0.05) -> np.ndarray:
    """How far each step stands above the local median of log steps, in units of the robust spread [n]."""
    logs = np.log(steps + floor)
    padded = np.pad(logs, radius, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1)
    excess = logs - np.median(around, axis=1)
    spread = 1.4826 * np.median(np.abs(excess - np.median(excess)))
    return excess / max(spread, 1e-6)


def seam_score(image: np.ndarray, borders: list[int]) -> tuple[float, float]:
    """(median, maximum) over `borders` of the seam's robust z; a border x lies between columns x-1 and x."""
    z = robust_z(column_steps(image))
    at = [z[max(0, x - 2) : x + 1].max() for x in borders if 0 < x < image.shape[1]]
    return (float(np.median(at)), float(np.max(at))) if at else (0.0, 0.0)


class Seams:
    """The strongest seam anywhere in each image, for when the borders are not known."""

    name = "seam"
    unit = "robust z of the strongest column step"
    higher_is_better = False
    checkpoint = "none"
    checkpoint_hash = "seams-1"
    view = "whole"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image; prompts don't matter."""
        return [float(robust_z(column_steps(np.asarray(image.convert("RGB")))).max()) for image in images]
