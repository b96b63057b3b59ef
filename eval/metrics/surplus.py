"""Surplus objects: how many things of a scroll are copies of another one, with no weights and no prompt.

What stands out of its row is compared with what stands out elsewhere (`salience`, `matching`); n copies of a
thing count n - 1, different things nothing. It reads repetition of colour and form: things that are one kind
to a person but look different are different to it, what is rightly repeated (bricks, stars, a forest, an
arcade) is counted, separate round clouds are things to it, and what is smeared too faintly is not seen.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from eval.metrics.matching import Gate, Repeats, repeats
from eval.metrics.salience import Field, colour_field


class SurplusObjects:
    """Things beyond the first of their kind, per image; below 0.3 is none."""

    name = "surplus"
    unit = "objects that are copies of another"
    higher_is_better = False
    checkpoint = "none"
    checkpoint_hash = "surplus-1"
    version = "1"
    view = "whole"

    def __init__(self) -> None:
        self.gate = Gate()

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One count per image; prompts don't matter."""
        return [self.look(np.asarray(image.convert("RGB")))[1].surplus for image in images]

    def look(self, image: np.ndarray) -> tuple[Field, Repeats]:
        """What stands out of an RGB picture, uint8 [height, width, 3], and how often it stands there."""
        field = colour_field(image)
        return field, repeats(field, self.gate)

    def heat_map(self, image: Image.Image) -> Image.Image:
        """The picture in dark grey with everything that stands more than once glowing over it."""
        pixels = np.asarray(image.convert("RGB"))
        tall = pixels.shape[0] > pixels.shape[1]
        field, found = self.look(pixels)
        return glow(pixels, field, found.others, tall)


def glow(pixels: np.ndarray, field: Field, others: np.ndarray, tall: bool) -> Image.Image:
    """`others` as light over the darkened picture, full where a clear thing stands in four other places."""
    heat = np.clip(others / 4, 0, 1) * field.energy / (field.energy + 0.2)
    heat = cv2.GaussianBlur(heat.astype(np.float32), (0, 0), 1.0)
    heat = heat.T if tall else heat
    heat = np.clip(cv2.resize(heat, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = 0.35 * cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    opacity = np.minimum(1, 1.6 * heat)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).astype(np.uint8))
