"""Repeated objects, counted: exact for scenes of the miniature's world, whose inventory a detector knows."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image


def surplus(kinds: list[str]) -> int:
    """How many objects are there beyond the first of their kind."""
    return sum(count - 1 for count in Counter(kinds).values())


class RepeatedObjects:
    """Objects beyond one of each kind, as the miniature's detector sees them; 0 for a scene that is whole.

    Meaningful for pictures of the miniature's world only: its detector knows nothing else.
    """

    name = "repeated_objects"
    unit = "objects beyond one of a kind"
    higher_is_better = False
    checkpoint = "miniature detector"
    view = "whole"

    def __init__(self) -> None:
        from miniature.detector import DETECTOR_VERSION, count_objects

        self.checkpoint_hash = str(DETECTOR_VERSION)
        self._count = count_objects

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One count per image; prompts don't matter."""
        return [
            float(surplus([found.kind for found in self._count(np.asarray(image.convert("RGB")))]))
            for image in images
        ]
