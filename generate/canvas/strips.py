"""Long scrolls in strips: which columns are painted next, and how much of what is there is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from drspo.errors import UserError


class Sizes(Protocol):
    """What a model says about sizes, in pixels."""

    @property
    def window(self) -> int: ...
    @property
    def factor(self) -> int: ...
    @property
    def scroll(self) -> tuple[int, int]: ...
    @property
    def blueprint(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Strip:
    """Columns of a scroll in pixels, ends excluded: a canvas, and what is new in it; the rest is known."""

    left: int
    right: int
    start: int
    stop: int

    @property
    def known(self) -> tuple[tuple[int, int], ...]:
        """The known columns, counted from the canvas's left end."""
        sides = ((0, self.start - self.left), (self.stop - self.left, self.right - self.left))
        return tuple((a, b) for a, b in sides if b > a)


def unit_of(sizes: Sizes) -> int:
    """Pixels that every width is a multiple of: whole latents in the scroll and in its blueprint."""
    return sizes.factor * max(1, sizes.scroll[1] // sizes.blueprint[1])


def own_width(sizes: Sizes, height: int) -> int:
    """The width of a scroll of this height in the model's own proportion, in whole units."""
    unit = unit_of(sizes)
    return max(unit, round(sizes.scroll[1] * height / sizes.scroll[0] / unit) * unit)


def strips_to_right(sizes: Sizes, height: int, there: int, more: int, *, fixed: bool = True) -> list[Strip]:
    """The strips that add `more` columns to `there` of them, each at most half of the model's own width.

    Each sees as much of what is there as makes its canvas as wide as the model's own scroll, and paints the
    end of the strip before anew; also the end of what is there, unless that is `fixed`. UserError for a
    number of columns that is no multiple of the unit.
    """
    unit, own = unit_of(sizes), own_width(sizes, height)
    if more <= 0 or more % unit:
        near = sorted({max(unit, more // unit * unit), max(unit, -(-more // unit) * unit)})
        raise UserError(
            f"{more} columns are no positive multiple of {unit} pixels, which the model takes at once",
            hint=f"The nearest: {' and '.join(map(str, near))}.",
        )
    count = -(-more // max(unit, own // 2 // unit * unit))
    edges = [there + more // unit * index // count * unit for index in range(count + 1)]
    strips = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        first = start if start == there and fixed else start - redone(sizes)
        known = min(first, max(own - (stop - first), sizes.window)) // unit * unit
        strips.append(Strip(first - known, stop, first, stop))
    return strips


def redone(sizes: Sizes) -> int:
    """How many columns at the end of a strip the next one paints anew: a picture's edge is not a picture's
    middle to a network."""
    unit = unit_of(sizes)
    return max(unit, sizes.window // 4 // unit * unit)


def mirrored(strip: Strip, width: int) -> Strip:
    """The same strip counted from the other end."""
    return Strip(width - strip.right, width - strip.left, width - strip.stop, width - strip.start)


def strip_inside(sizes: Sizes, height: int, width: int, start: int, stop: int) -> Strip:
    """The canvas in which the columns from `start` to `stop` of a scroll are painted anew, with both sides of
    them where there are any. UserError for columns that the scroll does not have."""
    if not 0 <= start < stop <= width:
        raise UserError(f"the scroll has no columns from {start} to {stop}: it is {width} wide", "--from")
    unit = unit_of(sizes)
    beside = max(sizes.window // 2, unit)
    wide = max(own_width(sizes, height), -(-(stop - start + 2 * beside) // unit) * unit)
    wide = min(wide, width // unit * unit)
    if stop - start > wide:
        raise UserError(
            f"a scroll {width} wide is not of whole units of {unit} pixels", "--to", "Leave its end."
        )
    left = min(max(0, start - (wide - (stop - start)) // 2), width - wide)
    aligned = left - (left - start) % unit  # the first new column begins a unit
    left = aligned if aligned >= 0 and aligned + wide >= stop else left
    return Strip(left, left + wide, start, stop)
