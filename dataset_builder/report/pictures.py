"""The pictures of the gallery, files beside its page: each as it was made, and reduced."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from drspo.files.pictures import picture_format, read_picture

SCROLLS = "scrolls"  # the folder of the pictures, beside the page
WIDEST = 8192  # pixels of a reduced picture; WebP ends at 16383

Keep = Callable[[str, bytes], None]
"""Puts a file beside the page: its name there, "/" between folders, and its bytes."""


@dataclass(frozen=True)
class Picture:
    """A scroll's two files, named from the page: as it was made, and reduced; the reduced one's size."""

    original: str
    reduced: str
    width: int
    height: int


def kept(data: bytes, height: int, keep: Keep) -> Picture:
    """Keeps a picture as it is and reduced; their names are functions of the bytes."""
    name = f"{SCROLLS}/{hashlib.sha256(data).hexdigest()[:20]}"
    original, reduced = f"{name}.{picture_format(data)}", f"{name}-{height}.webp"
    small, (width, low) = reduce(data, height)
    keep(original, data)
    keep(reduced, small)
    return Picture(original, reduced, width, low)


def reduce(data: bytes, height: int) -> tuple[bytes, tuple[int, int]]:
    """A WebP of the picture within `height` and WIDEST, never enlarged, and its size (width, height)."""
    image = read_picture(data)
    scale = min(1.0, height / image.height, WIDEST / image.width)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82, method=4)
    return buffer.getvalue(), image.size
