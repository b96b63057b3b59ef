"""The one reader of pictures: bytes or a file to RGB, nothing clipped, turned, dropped or guessed.

Everything here is Pillow's, asked for the three formats that the project writes and data sets hold. Pillow
alone would read a 16-bit grey picture as white, drop transparency, leave a photograph lying on its side, and
refuse this project's own largest scrolls as a bomb. Colour profiles are not applied: values count as sRGB.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from drspo.errors import UserError

MOST_PIXELS = 1 << 28
"""More are refused unread; a scroll of 2048 x 90112 has 0.69 of it, which is 0.8 GB as RGB."""

Source = bytes | str | os.PathLike[str]

logger = logging.getLogger(__name__)
_HINT = "Convert it to PNG, JPEG or WebP, 8 bits a channel, sRGB."
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
}
_MARKS = (
    ("png", 0, b"\x89PNG\r\n\x1a\n"),
    ("jpeg", 0, b"\xff\xd8\xff"),
    ("webp", 8, b"WEBP"),
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("AVIF", 4, b"ftypavi"),
    ("HEIC", 4, b"ftyp"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL "),
    ("JPEG 2000", 4, b"jP  "),
    ("Photoshop", 0, b"8BPS"),
    ("PDF", 0, b"%PDF"),
    ("SVG or HTML", 0, b"<"),
    ("Git LFS pointer", 0, b"version https://"),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_PLAIN = ("1", "L", "P", "RGB", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def read_picture(source: Source, where: str = "") -> Image.Image:
    """The picture as RGB, 8 bits a channel, upright.

    16-bit values keep their high byte, transparency is laid over white (a log line says so), the EXIF
    orientation is obeyed. UserError, which names `where` or the file, for what is damaged or cut off, is
    animated, has more than MOST_PIXELS, or has a format, depth or colour space that is not known here.
    """
    where = _place(source, where)
    with opened(source, where) as image:
        _refuse_key(image, where)
        with _explained(where):
            image.load()
        turn = _orientation(image)
        picture = rgb(image, where)
    return picture.transpose(_TURNS[turn]) if turn in _TURNS else picture


def picture_size(source: Source, where: str = "") -> tuple[int, int]:
    """(width, height) in pixels of the upright picture, from the header alone; UserError as read_picture."""
    with opened(source, where) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


@contextlib.contextmanager
def opened(source: Source, where: str = "") -> Iterator[ImageFile.ImageFile]:
    """Pillow's picture with its header read and its pixels not: for its size, its text, its EXIF.

    Pillow's own bound is not asked: it is the program's global, and refuses long scrolls.
    """
    where = _place(source, where)
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            stream: BinaryIO = io.BytesIO(source)
        else:
            stream = stack.enter_context(_open(source, where))
        reader = _READERS[_format(stream.read(32), where)]
        stream.seek(0)
        with _explained(where):
            image = stack.enter_context(reader(stream))
        if image.width * image.height > MOST_PIXELS:
            raise UserError(
                f"a picture of {image.height}x{image.width}: more than {MOST_PIXELS} pixels are not read",
                where,
            )
        if getattr(image, "n_frames", 1) > 1:
            raise UserError("an animation, not a picture", where, "Give one of its frames.")
        yield image


def picture_format(data: bytes, where: str = "") -> str:
    """ "png", "jpeg" or "webp", by the first bytes; UserError for anything else."""
    return _format(data[:32], _place(data, where))


def rgb(image: Image.Image, where: str = "a picture") -> Image.Image:
    """A picture that is open already, as RGB by the rules of `read_picture`; it is not turned."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if _is_deep(image):
        return _from_16_bits(image)
    if image.mode in _WITH_ALPHA or (image.mode in _PLAIN and "transparency" in image.info):
        return _over_white(image.convert("RGBA"), where)
    if image.mode in _PLAIN:
        return image.convert("RGB")
    raise UserError(f"a picture of Pillow's mode {image.mode} is not known here", where, _HINT)


def _refuse_key(image: ImageFile.ImageFile, where: str) -> None:
    """A colour that means transparent is compared with the pixels after Pillow has cut them to 8 bits."""
    if "transparency" in image.info and image.mode != "P" and any(";" in str(tile[3]) for tile in image.tile):
        raise UserError("a transparent colour at another depth than 8 bits is not known here", where, _HINT)


def _is_deep(image: Image.Image) -> bool:
    """16-bit grey; Pillow keeps that of a PNG in a 32-bit mode in some versions."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _from_16_bits(image: Image.Image) -> Image.Image:
    grey = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return grey.convert("RGB")


def _over_white(image: Image.Image, where: str) -> Image.Image:
    if image.getchannel("A").getextrema() != (255, 255):
        logger.info("%s is transparent in places: laid over white", where)
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """1 to 8, of EXIF; 1, as it lies, where nothing is said or what is said has no meaning."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF beside a whole picture: Pillow's parser raises what it likes
        return 1
    return value if value in _TURNS else 1


def _format(head: bytes, where: str) -> str:
    found = next((name for name, at, mark in _MARKS if head[at : at + len(mark)] == mark), "")
    if found in _READERS:
        return found
    said = f"a {found} file is no picture that is read here" if found else "not a picture that is known here"
    raise UserError(said if head else "an empty file, not a picture", where, _HINT)


def _open(source: str | os.PathLike[str], where: str) -> BinaryIO:
    try:
        return open(source, "rb")
    except FileNotFoundError as error:
        raise UserError("there is no such picture", where) from error
    except OSError as error:
        raise UserError(f"the picture cannot be read: {error.strerror}", where) from error


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # Damaged bytes make Pillow raise OSError, SyntaxError, ValueError, EOFError, struct.error and more.
        raise UserError(f"the picture is damaged or cut off: {error}", where) from error


def _place(source: Source, where: str) -> str:
    return where or ("a picture" if isinstance(source, bytes) else os.fspath(source))
