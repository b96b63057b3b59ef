"""What the gallery's page is made of: groups of scrolls, which are evenly over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dataset_builder.report.pictures import Picture

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One scroll: its picture, what made it and how it scored."""

    generator: str
    seed: int
    score: float | None
    scores: dict[str, float]
    picture: Picture | None
    role: str = ""
    rank: int | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The scrolls of one prompt, best first, and the margin of its pair."""

    prompt: str
    strips: tuple[Strip, ...]
    margin: float | None = None
    split: str = ""

    @property
    def shape(self) -> float:
        """Width over height of the longest scroll; 4 where there is none."""
        return max((strip.picture.shape for strip in self.strips if strip.picture), default=4.0)


@dataclass
class Gallery:
    """Everything on the page."""

    title: str
    counts: dict[str, int]
    groups: list[Group]
    total: int
    funnel: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    drawings: list[str] = field(default_factory=list)
    decided_by: str = ""


def spread(items: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` of the items, evenly over all of them."""
    if limit <= 0 or len(items) <= limit:
        return items
    return [items[index * len(items) // limit] for index in range(limit)]
