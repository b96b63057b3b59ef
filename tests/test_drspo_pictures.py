"""The one reader of pictures: what it makes of each kind, and what it refuses."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import MOST_PIXELS, picture_format, picture_size, read_picture

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand: any depth and size, whatever Pillow could write."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> list[list[int]]:
    image = read_picture(data)
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


@pytest.mark.parametrize("colour, channels", [(GREY, 1), (RGB, 3)])
def test_16_bit_values_are_scaled_and_not_clipped(colour: int, channels: int) -> None:
    values = [0x0000, 0x8000, 0xFFFF]
    rows = b"\0" + b"".join(struct.pack(">H", value) * channels for value in values)
    assert pixels(png(3, 1, 16, colour, rows)) == [[0] * 3, [128] * 3, [255] * 3]


def test_16_bit_pictures_with_transparency_lie_over_white() -> None:
    assert pixels(png(2, 1, 16, GREY_ALPHA, b"\0" + struct.pack(">4H", 0x8000, 0xFFFF, 0, 0))) == [
        [128] * 3,
        [255] * 3,
    ]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_lies_over_white_and_is_said(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    with caplog.at_level(logging.INFO):
        found = pixels(encoded(image, kind, lossless=True))
    assert found == [[10, 20, 30], [255, 255, 255]]
    assert "over white" in caplog.text
    caplog.clear()
    pixels(encoded(Image.new("RGBA", (2, 1), (10, 20, 30, 255)), kind, lossless=True))
    assert not caplog.text, "an alpha channel that hides nothing is not worth a word"


def test_half_transparent_black_is_grey() -> None:
    assert pixels(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")) == [[127, 127, 127]]


def test_palettes_greys_and_transparent_colours_give_their_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image, "PNG")) == [[10, 20, 30], [40, 50, 60]]
    assert pixels(encoded(image, "PNG", transparency=1)) == [[10, 20, 30], [255, 255, 255]]
    assert pixels(png(4, 1, 2, GREY, b"\0\x1b")) == [[0] * 3, [85] * 3, [170] * 3, [255] * 3]
    assert pixels(png(2, 1, 1, GREY, b"\0\x40")) == [[0] * 3, [255] * 3]
    key = chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    assert pixels(png(2, 1, 8, RGB, b"\0" + bytes([1, 2, 3, 4, 5, 6]), key)) == [[255] * 3, [4, 5, 6]]


def test_a_transparent_colour_of_another_depth_is_refused() -> None:
    key = chunk(b"tRNS", struct.pack(">H", 0x8000))
    with pytest.raises(UserError, match="transparent colour"):
        read_picture(png(1, 1, 16, GREY, b"\0\x80\0", key))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_every_exif_orientation_comes_upright(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    gradient = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)
    image = Image.fromarray(np.stack([gradient] * 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    found = read_picture(data)
    with Image.open(io.BytesIO(data)) as plain:
        assert found.tobytes() == ImageOps.exif_transpose(plain).convert("RGB").tobytes()
    assert picture_size(data) == found.size == ((16, 24) if orientation >= 5 else (24, 16))


def test_the_longest_scroll_of_ours_is_read() -> None:
    width, height = 90112, 2048
    data = png(width, height, 1, GREY, (b"\0" + b"\xff" * (width // 8)) * height)
    assert picture_size(data) == (width, height)
    image = read_picture(data)
    assert image.size == (width, height) and image.getpixel((width - 1, height - 1)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(MOST_PIXELS, 2), (1 << 15, (1 << 13) + 1), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    for read in (read_picture, picture_size):
        with pytest.raises(UserError, match="pixels are not read"):
            read(png(*size, 8, RGB, b""))


@pytest.mark.parametrize(
    "data, name",
    [
        (b"GIF89a" + b"\0" * 40, "GIF"),
        (b"II*\0" + b"\0" * 40, "TIFF"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x1cftypheic", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "HTML"),
        (b"", "empty file"),
        (b"hello", "not a picture"),
        (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK"),
    ],
)
def test_what_is_not_known_is_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(UserError, match=name):
        read_picture(data)


def test_an_animation_is_no_picture() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        with pytest.raises(UserError, match="animation"):
            read_picture(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


WHOLE = {
    kind: encoded(Image.effect_noise((64, 48), 60).convert("RGB"), kind) for kind in ("PNG", "JPEG", "WEBP")
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_an_error_wherever_it_is_cut(kind: str) -> None:
    data = WHOLE[kind]
    for length in range(0, len(data) - 16, max(1, len(data) // 40)):
        with pytest.raises(UserError):
            read_picture(data[:length])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damaged_bytes_give_a_picture_or_one_error(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read_picture(bytes(damaged)).mode == "RGB"
    except UserError as error:
        assert str(error)


def test_files_are_read_and_named_in_errors(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(WHOLE["PNG"])
    assert read_picture(path).tobytes() == read_picture(WHOLE["PNG"], "somewhere").tobytes()
    path.write_bytes(WHOLE["PNG"][:100])
    with pytest.raises(UserError, match="a.png"):
        read_picture(path)
    with pytest.raises(UserError, match="no such picture"):
        read_picture(tmp_path / "none.png")


def test_the_format_is_told_by_the_bytes() -> None:
    assert {kind: picture_format(data) for kind, data in WHOLE.items()} == {
        "PNG": "png",
        "JPEG": "jpeg",
        "WEBP": "webp",
    }
