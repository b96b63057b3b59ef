"""How a long image is shown to a scorer that expects a square.

One resize path serves every scorer: Pillow's bicubic filter, always antialiased. The version of that path
travels with the score, because antialiasing alone moves a letterboxed scroll by 5 % of the grey range.
"""

from __future__ import annotations

from typing import Literal, get_args

from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb

View = Literal["official", "letterbox", "squash", "windows"]
RESIZE_PATH = "pil-bicubic-1"
"""Name of the resize path, recorded beside scores; changes when pixels change."""


def check_view(view: str) -> None:
    """Nothing for a known view; UserError with the choices otherwise."""
    if view not in get_args(View):
        raise UserError(f"unknown view {view!r}", "scorer view", f"choose from {', '.join(get_args(View))}")


def official(image: Image.Image, size: int) -> Image.Image:
    """CLIP's own preprocessing: the short side to `size`, then the centre square of `size` pixels."""
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def letterbox(image: Image.Image, size: int) -> Image.Image:
    """The whole image, long side to `size`, centred on black."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square


def squash(image: Image.Image, size: int) -> Image.Image:
    """The whole image, both sides to `size`, its aspect lost."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def window_boxes(width: int, height: int, *, overlap: bool = True) -> list[tuple[int, int, int, int]]:
    """Square boxes (left, top, right, bottom) along the long side, in pixels, the last flush with the edge.

    With `overlap` they step by half a square (seven for 4:1), else by a whole one (four for 4:1).
    """
    side, length = min(width, height), max(width, height)
    step = max(1, side // 2 if overlap else side)
    starts = list(range(0, length - side + 1, step))
    if starts[-1] != length - side:
        starts.append(length - side)
    if width >= height:
        return [(start, 0, start + side, side) for start in starts]
    return [(0, start, side, start + side) for start in starts]


def shown(image: Image.Image, view: str, size: int) -> list[Image.Image]:
    """The squares of `size` pixels that a scorer sees of `image` under `view`: one, or one per window."""
    check_view(view)
    image = rgb(image)
    if view == "windows":
        return [squash(image.crop(box), size) for box in window_boxes(*image.size)]
    return [{"official": official, "letterbox": letterbox, "squash": squash}[view](image, size)]


def seen_fraction(width: int, height: int, view: str) -> float:
    """The share of the long side that `view` shows: 0.25 for the official view of a 4:1 scroll, else 1."""
    check_view(view)
    return min(width, height) / max(width, height) if view == "official" else 1.0
