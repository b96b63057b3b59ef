"""Images as the dataset stores them: encoded once, by the actor that made them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from drspo.files.pictures import read_picture

_EXTENSIONS = {"webp-lossless": "webp", "jpeg95-444": "jpg", "png": "png"}
# Lossless WebP at its fastest setting: a scroll takes a tenth of PNG's time, at about PNG's size.
_OPTIONS: dict[str, dict[str, Any]] = {
    "webp-lossless": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0, "exact": True},
    "jpeg95-444": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "png": {"format": "PNG", "compress_level": 1},
}


LONGEST = {"webp-lossless": 16383, "jpeg95-444": 65500}
"""Pixels at which a side of an encoding ends."""


def extension(encoding: str) -> str:
    """The file extension of an encoding, without the dot."""
    return _EXTENSIONS[encoding]


def encode(image: Image.Image, encoding: str) -> bytes:
    """The RGB image as bytes: "webp-lossless" and "png" keep every pixel, "jpeg95-444" does not.

    Nothing but pixels: a comment, a profile or a transparent colour that came with the image stays behind.
    """
    if image.mode != "RGB":
        raise ValueError(f"only RGB images are stored, this one is {image.mode}")
    buffer, bare = io.BytesIO(), image.copy()
    bare.info = {}
    bare.save(buffer, **_OPTIONS[encoding])
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    """The stored image as RGB."""
    return read_picture(data)
