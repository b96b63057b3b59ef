"""Surplus objects: how many things of a scroll are copies of another one, with no weights and no prompt.

What stands out of its row is compared with what stands out elsewhere (`salience`, `matching`); n copies of a
thing count n - 1, different things nothing. It reads repetition of colour and form: things that are one kind
to a person but look different are different to it, what is rightly repeated (bricks, stars, a forest, an
arcade) is counted, separate round clouds are things to it, and what is smeared too faintly is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from drspo.files.pictures import rgb
from eval.metrics.matching import Gate, Repeats, repeats, things
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
        return [self.look(np.asarray(rgb(image)))[1].surplus for image in images]

    def look(self, image: np.ndarray) -> tuple[Field, Repeats]:
        """What stands out of an RGB picture, uint8 [height, width, 3], and how often it stands there."""
        field = colour_field(image)
        return field, repeats(field, self.gate)


class Looks(Protocol):
    """A measure of surplus objects, of drawn worlds or of photographs."""

    def look(self, image: np.ndarray) -> tuple[Field, Repeats]:
        """What stands out of an RGB picture, and how often it stands there."""
        ...


@dataclass(frozen=True, slots=True)
class Repeated:
    """A thing that stands again elsewhere in a picture."""

    box: tuple[int, int, int, int]
    """left, top, right, bottom in pixels of the picture."""
    others: float
    """In how many other places."""


def heat_map(picture: Image.Image | np.ndarray, measure: Looks | None = None) -> np.ndarray:
    """Where a picture repeats itself: float32 [height, width] in 0..1, aligned with the picture.

    0 where nothing stands twice, 1 where a clear thing stands in four other places or more. The picture is
    a PIL image or RGB, uint8 [height, width, 3]; `measure` is SurplusObjects unless another is given.
    """
    pixels = _pixels(picture)
    field, found = (measure or SurplusObjects()).look(pixels)
    heat = np.clip(found.others / 4, 0, 1) * field.energy / (field.energy + 0.2)
    heat = cv2.GaussianBlur(heat.astype(np.float32), (0, 0), 1.0)
    heat = heat.T if pixels.shape[0] > pixels.shape[1] else heat
    return np.clip(cv2.resize(heat, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def repeated_things(
    picture: Image.Image | np.ndarray, measure: Looks | None = None, least: float = 0.3
) -> list[Repeated]:
    """The things of a picture that stand in `least` other places or more, from left to right.

    A thing's number is the mean over its cells, weighted by how clearly they stand out.
    """
    pixels = _pixels(picture)
    height, width = pixels.shape[:2]
    tall = height > width
    field, found = (measure or SurplusObjects()).look(pixels)
    count, labels = things(field)
    rows, columns = field.strength.shape
    down, along = (width / rows, height / columns) if tall else (height / rows, width / columns)
    out = []
    for label in range(1, count):
        own = labels == label
        weight = field.energy[own]
        others = float((found.others[own] * weight).sum() / max(weight.sum(), 1e-9))
        if others < least:
            continue
        y, x = np.nonzero(own)
        top, bottom = round(y.min() * down), round((y.max() + 1) * down)
        left, right = round(x.min() * along), round((x.max() + 1) * along)
        out.append(Repeated((top, left, bottom, right) if tall else (left, top, right, bottom), others))
    return sorted(out, key=lambda one: one.box)


def glow(picture: Image.Image | np.ndarray, heat: np.ndarray) -> Image.Image:
    """A heat map as light over the picture in dark grey."""
    pixels = _pixels(picture)
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = 0.35 * cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    opacity = np.minimum(1, 1.6 * heat)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).astype(np.uint8))


def _pixels(picture: Image.Image | np.ndarray) -> np.ndarray:
    return np.asarray(rgb(picture)) if isinstance(picture, Image.Image) else picture
