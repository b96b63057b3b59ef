"""Plugins that answer what their contracts do not allow, on prompts with a castle only."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from PIL import Image

from eval.base import Missing
from tests.plugin_fakes import Brightness, Painter, PainterConfig


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Panic(BaseException):
    """As libraries in Rust raise it: no Exception."""


HALF = "a file called caf\udce9"
FAILURES: dict[str, BaseException] = {
    "an exit": SystemExit(3),
    "a quiet exit": SystemExit(0),
    "a cancellation": asyncio.CancelledError(),
    "a generator's end": GeneratorExit(),
    "a panic": Panic("index out of bounds"),
    "no words": Mute(),
    "half a character": RuntimeError(HALF),
}


def fail(how: str) -> Any:
    raise FAILURES[how]


def exits(row: dict[str, str]) -> None:
    """A filter that ends the program."""
    sys.exit(0)


def refuses(row: dict[str, str]) -> str:
    """A filter whose reason is not Unicode."""
    return HALF


BAD_IMAGES: dict[str, Any] = {
    "none": lambda good: None,
    "no list": lambda good: good[0],
    "too few": lambda good: good[:-1],
    "too many": lambda good: [*good, good[0]],
    "none inside": lambda good: [None for _ in good],
    "no image": lambda good: [_with(one, image=None) for one in good],
    "bytes": lambda good: [_with(one, image=b"PNG") for one in good],
    "another size": lambda good: [_with(one, image=one.image.resize((32, 64))) for one in good],
    "grey": lambda good: [_with(one, image=one.image.convert("L")) for one in good],
    "alpha": lambda good: [_with(one, image=one.image.convert("RGBA")) for one in good],
    "a broken file": lambda good: [_with(one, image=_Broken()) for one in good],
    "no time": lambda good: [_with(one, seconds=None) for one in good],
    "endless time": lambda good: [_with(one, seconds=math.inf) for one in good],
    "an exit": lambda good: sys.exit(3),
    "a cancellation": lambda good: fail("a cancellation"),
    "no words": lambda good: fail("no words"),
    "half a character": lambda good: fail("half a character"),
}
BAD_SCORES: dict[str, Any] = {
    "none": lambda good: None,
    "a number": lambda good: 3.0,
    "too few": lambda good: good[:-1],
    "too many": lambda good: [*good, 1.0],
    "text": lambda good: ["5.0" for _ in good],
    "none inside": lambda good: [None for _ in good],
    "nan": lambda good: [math.nan for _ in good],
    "inf": lambda good: [math.inf for _ in good],
    "-inf": lambda good: [-math.inf for _ in good],
    "half a reason": lambda good: [Missing(HALF) for _ in good],
    "an exit": lambda good: sys.exit(3),
    "a cancellation": lambda good: fail("a cancellation"),
    "no words": lambda good: fail("no words"),
    "half a character": lambda good: fail("half a character"),
}


@dataclass(frozen=True)
class WrongConfig(PainterConfig):
    how: str = ""


class WrongPainter(Painter):
    """A painter whose answer to a castle is wrong in one of the ways above."""

    name = "wrong"
    config_class = WrongConfig

    def generate(self, requests: list, callback: object = None) -> Any:
        good = super().generate(requests)
        return BAD_IMAGES[self.config.how](good) if "castle" in requests[0].prompt else good


class WrongScorer(Brightness):
    """A scorer whose answer to a castle is wrong in one of the ways above."""

    def score(self, images: list, prompts: list[str]) -> Any:
        good = super().score(images, prompts)
        return BAD_SCORES[self.how](good) if any("castle" in prompt for prompt in prompts) else good


class Shrinks(Brightness):
    """A scorer that edits the pictures it is shown."""

    def score(self, images: list, prompts: list[str]) -> list[float]:
        for image in images:
            image.thumbnail((8, 8))
            image.paste((255, 0, 0), (0, 0, 8, 8))
        return super().score(images, prompts)


class _Broken(Image.Image):
    size, mode = (64, 32), "RGB"
    width, height = size

    def save(self, *args: object, **options: object) -> None:
        raise OSError("image file is truncated")


def _with(one: SimpleNamespace, **changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(one), **changes})
