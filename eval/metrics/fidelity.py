"""Blueprint fidelity: whether the scroll still shows what its blueprint planned. No measure of quality."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb
from eval.base import Missing
from eval.metrics.salience import small_lab


def fidelity(image: np.ndarray, blueprint: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of scroll and blueprint, both 32 pixels high, in -1..1.

    Mean over the Lab channels and over places, Gaussian window of 1.5 pixels; 1 for the blueprint itself.
    Both are RGB, uint8; UserError when they have another aspect.
    """
    one, two = (_halved(small_lab(picture)) for picture in (image, blueprint))
    if one.shape != two.shape:
        raise UserError(
            f"the blueprint is {blueprint.shape[1]} x {blueprint.shape[0]}, the scroll "
            f"{image.shape[1]} x {image.shape[0]}: they have another aspect",
            "blueprint",
            "compare a scroll to the blueprint that it was painted from",
        )
    first, second = (0.01 * 100) ** 2, (0.03 * 100) ** 2

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (0, 0), 1.5)

    a, b = mean(one), mean(two)
    vary_a, vary_b, both = mean(one * one) - a * a, mean(two * two) - b * b, mean(one * two) - a * b
    like = (2 * a * b + first) * (2 * both + second)
    like /= (a * a + b * b + first) * (vary_a + vary_b + second)
    return float(like.mean())


def _halved(lab: np.ndarray) -> np.ndarray:
    return cv2.resize(lab, (lab.shape[1] // 2, lab.shape[0] // 2), interpolation=cv2.INTER_AREA)


class BlueprintFidelity:
    """How much of its blueprint each scroll still shows; missing where it was painted without one."""

    name = "blueprint_fidelity"
    unit = "structural similarity of scroll and blueprint"
    higher_is_better = True
    checkpoint = "none"
    checkpoint_hash = "fidelity-1"
    version = "1"
    view = "whole"
    needs_blueprint = True

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One similarity per image whose `info` holds its blueprint; prompts don't matter."""
        return [self._one(image) for image in images]

    def _one(self, image: Image.Image) -> float:
        blueprint = image.info.get("blueprint")
        if not isinstance(blueprint, Image.Image):
            return Missing("no blueprint was kept with this picture")
        try:
            return fidelity(np.asarray(rgb(image)), np.asarray(rgb(blueprint)))
        except UserError as error:
            return Missing(error.what)
