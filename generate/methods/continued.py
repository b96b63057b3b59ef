"""Any method going on with a picture: more columns beside it, or some of its columns anew; the rest stays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from drspo.config import to_dict
from drspo.errors import UserError
from drspo.hashing import seed_from
from generate.canvas.strips import Strip, mirrored, own_width, strip_inside, strips_to_right
from generate.images.join import joined
from generate.images.kept import Kept
from generate.passages import within
from generate.request import Callback, Generated, Generator, Request

REACH = 1 / 2
"""Of the height: how far into the new columns a difference at the join fades."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of a picture: columns to its left and right, or those from `start` to `stop` anew."""

    left: int = 0
    right: int = 0
    start: int = 0
    stop: int = 0

    @property
    def extends(self) -> bool:
        """Whether columns are added."""
        return bool(self.left or self.right)

    def strips(self, sizes: Any, height: int, width: int) -> list[Strip]:
        """What is painted, in order, in columns of the picture as it will be; UserError as the strips'."""
        if not self.extends:
            return [strip_inside(sizes, height, width, self.start, self.stop)]
        strips = []
        if self.right:
            found = strips_to_right(sizes, height, width, self.right)
            strips = [
                Strip(s.left + self.left, s.right + self.left, s.start + self.left, s.stop + self.left)
                for s in found
            ]
        if self.left:
            whole = width + self.left + self.right
            found = strips_to_right(sizes, height, width + self.right, self.left)
            strips += [mirrored(strip, whole) for strip in found]
        return strips


class Continued(Generator):
    """A generator whose scrolls hold a given picture, unchanged to the bit where nothing is painted.

    Each canvas is a strip of new columns with known ones beside it. The method paints the canvas with the
    known latents put back at every step; what its picture differs by at the join fades into the new columns.
    `latents` are the last canvas's.
    """

    def __init__(self, inner: Generator, source: Image.Image, change: Change) -> None:
        super().__init__(inner.family, inner.config)
        self.inner, self.source, self.change = inner, source, change
        self.name = inner.name  # type: ignore[misc]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture as it will be."""
        return self.source.height, self.source.width + self.change.left + self.change.right

    def strips(self) -> list[Strip]:
        """What is painted, in order."""
        return self.change.strips(self.family.spec, self.source.height, self.source.width)

    def check(self, requests: list[Request]) -> None:
        """UserError for what cannot be painted, before heavy work."""
        require_keeping(self.inner)
        for request in requests:
            if (request.height, request.width) != self.size:
                raise UserError(
                    f"the scroll will be {self.size[0]}x{self.size[1]}, not {request.height}x{request.width}",
                    hint="Leave height and width out.",
                )
        self.inner.check([one for request in requests for one in self._requests(request)])

    def resolved(self, request: Request) -> Any:
        """The inner method's settings in force, on the first canvas."""
        return self.inner.resolved(self._requests(request)[0])

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        return sum(self.inner.count_steps(one) for one in self._requests(request))

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One picture per request."""
        self.check(requests)
        return [self._one(request, callback) for request in requests]

    def _requests(self, request: Request) -> list[Request]:
        return [
            strip_request(request, strip, number, self.size[1])
            for number, strip in enumerate(self.strips(), start=1)
        ]

    def _one(self, request: Request, callback: Callback | None) -> Generated:
        started = time.perf_counter()
        whole = np.zeros((*self.size, 3), np.uint8)
        whole[:, self.change.left : self.change.left + self.source.width] = np.asarray(self.source)
        facts: dict[str, Any] = {}
        made: Generated | None = None
        for strip, asked in zip(self.strips(), self._requests(request), strict=True):
            new, made = paint_strip(self.inner, asked, strip, whole[:, strip.left : strip.right], callback)
            whole[:, strip.start : strip.stop] = new
            facts = added(facts, made.facts)
        return Generated(
            request=request,
            image=Image.fromarray(whole),
            seconds=time.perf_counter() - started,
            latents=made.latents if made else torch.empty(0),
            extras=made.extras if made else {},
            facts=facts,
        )


def require_keeping(inner: Generator) -> None:
    """UserError for a method that cannot leave a part of a picture as it is."""
    if not inner.keeps:
        raise UserError(f"{inner.name} cannot leave a part of a picture as it is")
    if _wraps(to_dict(inner.config)):
        raise UserError("a ring has no end to go on from", hint="Leave wrap out.")


def strip_request(request: Request, strip: Strip, number: int, width: int) -> Request:
    """The request for a strip's canvas in a scroll of this width; each strip has a seed of its own."""
    return replace(
        request,
        width=strip.right - strip.left,
        seed=seed_from("strip", request.seed, number),
        along=within(request.along, strip.left / width, strip.right / width),
    )


def paint_strip(
    inner: Generator, request: Request, strip: Strip, canvas: np.ndarray, callback: Callback | None = None
) -> tuple[np.ndarray, Generated]:
    """The strip's new columns [height, new, 3], joined to its known ones, and the canvas they were cut from.

    `canvas` [height, width, 3] holds the known columns in their places.
    """
    inner.kept = Kept(Image.fromarray(_filled(canvas, strip)), strip.known)
    try:
        made = inner.generate([request], callback)[0]
    finally:
        inner.kept = None
    painted = np.asarray(made.image)
    first, last = strip.start - strip.left, strip.stop - strip.left
    new, reach = painted[:, first:last], round(canvas.shape[0] * REACH)
    if first:
        new = joined(canvas[:, :first], painted[:, :first], new, reach)
    if last < canvas.shape[1]:  # the same from the right
        old, there = canvas[:, last:][:, ::-1], painted[:, last:][:, ::-1]
        new = joined(old, there, new[:, ::-1], reach)[:, ::-1]
    return new, made


def added(facts: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The facts of several samplings: evaluations add up, of the rest the last ones hold."""
    return more | {key: more[key] + facts.get(key, 0) for key in more if key.endswith("evaluations")}


def _filled(canvas: np.ndarray, strip: Strip) -> np.ndarray:
    """The canvas with its new columns filled by the nearest known one, so that resizing brings in no edge."""
    filled = canvas.copy()
    first, last = strip.start - strip.left, strip.stop - strip.left
    middle = last if last >= canvas.shape[1] else first if not first else (first + last) // 2
    filled[:, first:middle] = canvas[:, max(first - 1, 0), None]
    filled[:, middle:last] = canvas[:, min(last, canvas.shape[1] - 1), None]
    return filled


def _wraps(settings: dict[str, Any]) -> bool:
    return any(
        value is True if key == "wrap" else isinstance(value, dict) and _wraps(value)
        for key, value in settings.items()
    )


class Endless(Generator):
    """A generator whose scrolls are as long as one likes: a first canvas, then strip after strip beside it.

    What is held at once is a canvas of the model's own width, however long the scroll is.
    """

    def __init__(self, inner: Generator) -> None:
        super().__init__(inner.family, inner.config)
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]

    def check(self, requests: list[Request]) -> None:
        """UserError for what cannot be painted, before heavy work."""
        require_keeping(self.inner)
        for request in requests:
            own = own_width(self.family.spec, request.height)
            if request.width <= own:
                raise UserError(
                    f"a scroll {request.width} wide needs no strips: the model's own is {own}", "--endless"
                )
        self.inner.check([one for request in requests for one in self._requests(request)])

    def resolved(self, request: Request) -> Any:
        """The inner method's settings in force, on the first canvas."""
        return self.inner.resolved(self._requests(request)[0])

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        return sum(self.inner.count_steps(one) for one in self._requests(request))

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, whole; `paint` gives it strip by strip."""
        self.check(requests)
        return [self._one(request, callback) for request in requests]

    def paint(
        self, request: Request, callback: Callback | None = None
    ) -> Iterator[tuple[np.ndarray, Generated]]:
        """The scroll from left to right: columns [height, some, 3], and the canvas that they come from."""
        strips = self._strips(request)
        tail, done = np.zeros((request.height, 0, 3), np.uint8), 0
        for number, (strip, asked) in enumerate(zip(strips, self._requests(request), strict=True)):
            if strip.start == 0:
                made = self.inner.generate([asked], callback)[0]
                new = np.asarray(made.image)
            else:
                known = tail[:, strip.left - (done - tail.shape[1]) :]
                empty = np.zeros((request.height, strip.stop - strip.start, 3), np.uint8)
                new, made = paint_strip(self.inner, asked, strip, np.hstack([known, empty]), callback)
            last = number + 1 == len(strips)
            done = strip.stop if last else strips[number + 1].start
            new = new[:, : done - strip.start]
            tail = np.hstack([tail, new])[:, -own_width(self.family.spec, request.height) :]
            yield new, made

    def _strips(self, request: Request) -> Sequence[Strip]:
        own = own_width(self.family.spec, request.height)
        later = strips_to_right(self.family.spec, request.height, own, request.width - own, fixed=False)
        return [Strip(0, own, 0, own), *later]

    def _requests(self, request: Request) -> list[Request]:
        asked = [
            strip_request(request, strip, number, request.width)
            for number, strip in enumerate(self._strips(request))
        ]
        return [replace(asked[0], seed=request.seed), *asked[1:]]

    def _one(self, request: Request, callback: Callback | None) -> Generated:
        started = time.perf_counter()
        columns: list[np.ndarray] = []
        facts: dict[str, Any] = {}
        latents = torch.empty(0)
        for new, made in self.paint(request, callback):
            columns.append(new)
            facts, latents = added(facts, made.facts), made.latents
        image = Image.fromarray(np.hstack(columns))
        seconds = time.perf_counter() - started
        return Generated(request=request, image=image, seconds=seconds, latents=latents, facts=facts)
