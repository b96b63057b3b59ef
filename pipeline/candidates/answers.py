"""What generators and scorers gave back, checked: code of others answers for its own candidates, by name."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from PIL import Image

from eval.base import Missing
from pipeline.plugins import WrongAnswerError, kind, storable


def checked_batch(made: Any, count: int) -> list[Any]:
    """The answers to `count` requests as a list. Raises WrongAnswerError for another number of them."""
    return _several(made, count, "images")


def checked_image(result: Any, height: int, width: int) -> tuple[Image.Image, float]:
    """The picture and its seconds. Raises WrongAnswerError unless it is RGB and of the size asked for."""
    image, seconds = getattr(result, "image", None), getattr(result, "seconds", None)
    if not isinstance(image, Image.Image):
        raise WrongAnswerError(f"gave {kind(result if image is None else image)} instead of an image")
    if image.size != (width, height):
        raise WrongAnswerError(
            f"gave {image.height} x {image.width} pixels where {height} x {width} were asked for"
        )
    if image.mode != "RGB":
        raise WrongAnswerError(f"gave an image of mode {image.mode}; only RGB is stored")
    if not (isinstance(seconds, numbers.Real) and math.isfinite(seconds)):
        raise WrongAnswerError(f"says that an image took {seconds!r} seconds")
    return image, float(seconds)


def checked_scores(answer: Any, count: int) -> list[float]:
    """One number for each of `count` images; a Missing keeps its reason, NaN and infinities pass as they are.

    Raises WrongAnswerError for another number of them, and for what is no number.
    """
    return [_number(value) for value in _several(answer, count, "scores")]


def problem(scores: Mapping[str, float | None]) -> str:
    """What keeps these scores from being compared, by column; empty when all are finite."""
    found = {column: _why_not_finite(value) for column, value in scores.items()}
    return "; ".join(f"{column}: {reason}" for column, reason in found.items() if reason)[:500]


def _why_not_finite(value: float | None) -> str:
    if value is None:
        return "missing"
    if math.isfinite(value):
        return ""
    return getattr(value, "reason", "") or ("not a number" if math.isnan(value) else "infinite")


def _several(answer: Any, count: int, what: str) -> list[Any]:
    if isinstance(answer, (str, bytes, dict)) or not isinstance(answer, (Sequence, Sized)):
        raise WrongAnswerError(f"gave {kind(answer)} instead of {count} {what}")
    if len(answer) != count:
        raise WrongAnswerError(f"gave {len(answer)} {what} where {count} were asked for")
    return list(answer)  # type: ignore[call-overload,no-any-return]


def _number(value: Any) -> float:
    if isinstance(value, Missing):
        return Missing(storable(str(value.reason)))
    if not _is_real(value):
        raise WrongAnswerError(f"gave {kind(value)} instead of a number")
    return float(value)


def _is_real(value: Any) -> bool:
    """Numbers of Python and NumPy, and arrays or tensors of one number; no text, nothing else."""
    if isinstance(value, numbers.Real):
        return True
    return hasattr(value, "__float__") and getattr(value, "ndim", None) == 0
