"""At which size a pair is trained on: the canvas's, or its own where a run takes several."""

from collections.abc import Callable, Iterator
from math import gcd

from drspo.errors import UserError
from train.canvas import TrainingCanvas
from train.pairs.rows import Dropped, sized

Fit = Callable[[tuple[int, int]], TrainingCanvas]
"""The canvas of a size (height, width) in pixels; `UserError` for one that the stage or model cannot take."""


def own_size(size: tuple[int, int], canvas: TrainingCanvas, fit: Fit, resize: str) -> tuple[int, int]:
    """Height and width that a pair of `size` pixels is trained on at: its own, whatever its aspect.

    `canvas` bounds the number of pixels, and `fit` decides which sizes the model takes. For the others
    `resize="downscale"` gives the largest smaller one of exactly the same aspect that is taken; `Dropped`
    where there is none, and for `resize="none"`.
    """
    most = canvas.height * canvas.width
    reason = _refused(size, most, fit)
    if not reason:
        return size
    if resize == "downscale":
        for smaller in _reduced(size, most, canvas.factor):
            if not _refused(smaller, most, fit):
                return smaller
        reason += "; there is no smaller one of exactly the same aspect"
    raise Dropped(f"a size that is not trained on: {sized(size)}: {reason}")


def _refused(size: tuple[int, int], most: int, fit: Fit) -> str:
    """Why a pair is not trained on at `size`; empty where it is."""
    if size[0] * size[1] > most:
        return f"more than the canvas's {most} pixels"
    try:
        fit(size)
    except UserError as error:
        return error.what
    return ""


def _reduced(size: tuple[int, int], most: int, factor: int) -> Iterator[tuple[int, int]]:
    """Smaller sizes of exactly the aspect of `size`, of whole latents and at most `most` pixels, the largest
    first."""
    common = gcd(*size)
    height, width = size[0] // common, size[1] // common
    # The aspect's sides share no divisor, so whole latents on both sides take a whole number of factors.
    largest = min(common - 1, int((most / (height * width)) ** 0.5) + 1)
    for times in range(largest // factor * factor, 0, -factor):
        if times * times * height * width <= most:
            yield times * height, times * width
