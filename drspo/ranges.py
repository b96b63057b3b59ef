"""Every number of a configuration has a range, declared where the field is; not-a-number is in none of them.

    steps: Annotated[int, Range(1, 1000)] = 20
    seeds: tuple[Seed, ...] = ()

`drspo.config.load` and `from_dict` check them, so nothing is computed or written with a number out of range.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from drspo.errors import UserError


@dataclass(frozen=True, slots=True)
class Range:
    """From `least` to `most`, both included unless said; `also` lists further values, such as -1."""

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False
    multiple: int = 1
    """whole numbers only: what must divide the value"""
    also: tuple[float, ...] = ()

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range."""
        if not math.isfinite(value):
            return False
        if value in self.also:
            return True
        above = value > self.least if self.open_least else value >= self.least
        below = value < self.most if self.open_most else value <= self.most
        return above and below and (self.multiple == 1 or value % self.multiple == 0)

    def __str__(self) -> str:
        kind = f"a multiple of {self.multiple}" if self.multiple > 1 else "a number"
        parts = []
        if math.isfinite(self.least):
            parts.append(f"above {_text(self.least)}" if self.open_least else f"from {_text(self.least)}")
        if math.isfinite(self.most):
            parts.append(f"below {_text(self.most)}" if self.open_most else f"up to {_text(self.most)}")
        also = "".join(f", or {_text(value)}" for value in self.also)
        return " ".join([kind, *(parts or ["that is finite"])]) + also

    def nearest(self, value: float) -> str:
        """The neighbours of a whole number that is only no multiple; empty for other faults."""
        if self.multiple == 1 or not math.isfinite(value) or not self.least <= value <= self.most:
            return ""
        below = value // self.multiple * self.multiple
        near = [n for n in (below, below + self.multiple) if self.least <= n <= self.most]
        return f" The nearest: {' and '.join(_text(n) for n in near)}."


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


MOST_PIXELS = 1 << 20  # of one side
Count = Annotated[int, Range(1, 1 << 40)]
Natural = Annotated[int, Range(0, 1 << 40)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
OwnSeed = Annotated[int, Range(0, 2**63 - 1, also=(-1,))]
Steps = Annotated[int, Range(1, 1000)]
Pixels = Annotated[int, Range(8, MOST_PIXELS, multiple=8)]
OwnPixels = Annotated[int, Range(8, MOST_PIXELS, multiple=8, also=(-1,))]  # -1: the model's own
OwnSide = Annotated[int, Range(1, MOST_PIXELS, also=(-1,))]  # of what the model has its own multiple for
OwnSteps = Annotated[int, Range(1, 1000, also=(-1,))]
OwnScale = Annotated[float, Range(0, 1000, also=(-1,))]
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0, 1e15)]
Positive = Annotated[float, Range(0, 1e15, open_least=True)]
Finite = Annotated[float, Range(-1e15, 1e15)]


def check_ranges(config: Any, where: Mapping[str, str] | None = None) -> None:
    """Raises UserError for the first number of a nested dataclass that is none or lies outside its range.

    `where` maps a dotted key to the place of its value (file and line); else the flag is named.
    """
    for key, value, allowed in numbers(config):
        if allowed.holds(value):
            continue
        place = (where or {}).get(key) or "--" + key.replace("_", "-")
        hint = f"It takes {allowed}.{allowed.nearest(value)}"
        raise UserError(f"{key.rpartition('.')[2]} is {value}", where=place, hint=hint)


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float, Range]]:
    """(dotted key, value, range) of every number in a nested dataclass; without a range, all finite ones."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from numbers(value, key + ".")
        else:
            yield from ((key, number, allowed) for number, allowed in _in(value, hints[field.name]))


def undeclared(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of number fields that declare no range."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        kind, key = hints[field.name], prefix + field.name
        bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
        if dataclasses.is_dataclass(bare) and isinstance(bare, type):
            yield from undeclared(bare, key + ".")
        elif not all(_declared(kind)):
            yield key


def _in(value: Any, kind: Any) -> Iterator[tuple[float, Range]]:
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield value, _range(kind) or Range()
    elif isinstance(value, (tuple, list)):
        inner = _inner(kind)
        for item, each in zip(value, inner * len(value) if len(inner) == 1 else inner):
            yield from _in(item, each)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _in(item, _inner(kind)[-1])


def _declared(kind: Any) -> Iterator[bool]:
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    if bare in (int, float):
        yield _range(kind) is not None
    elif typing.get_origin(bare) in (tuple, list, dict):
        for each in _inner(kind):
            yield from _declared(each)


def _range(kind: Any) -> Range | None:
    return next((mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, Range)), None)


def _inner(kind: Any) -> list[Any]:
    """The types of what a sequence or mapping holds; one for all items where it has any length."""
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    return [each for each in typing.get_args(bare) if each is not Ellipsis] or [Any]
