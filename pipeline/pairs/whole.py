"""What the pairing of one group has to know of all the others, gathered in passes over parts of the run.

A pass holds one part at a time. Parts hold whole groups: all candidates of a prompt are in one of them.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np
import polars as pl

from drspo.errors import UserError, did_you_mean
from drspo.hashing import seed_from
from pipeline.settings import PairSettings
from pipeline.values import Values

_LETTERS, _FEW = 3, 4096
Spool = Callable[[], BinaryIO]
"""Opens a file without a name."""
Parts = Callable[[], Iterable[pl.DataFrame]]
"""Begins a pass: gives the tables of all parts, one after the other."""


@dataclass(frozen=True)
class Standard:
    """A score's mean and deviation over the run, in units of a power of two near its largest value."""

    unit: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Callable[[], Iterator[float]]) -> Standard:
        """From three passes over the values. Exact sums, so that no order matters.

        The unit changes no digit and keeps the squares of huge scores finite; it is a normal number itself.
        """
        count, most = 0, 0.0
        for value in values():
            count, most = count + 1, max(most, abs(value))
        unit = math.ldexp(1.0, min(max(math.frexp(most)[1], -1021), 1023))
        mean = math.fsum(value / unit for value in values()) / max(count, 1)
        square = math.fsum((value / unit - mean) ** 2 for value in values()) / max(count, 1)
        return cls(unit, mean, math.sqrt(square))

    def __call__(self, column: pl.Series) -> pl.Series:
        """(x - mean) / deviation; zero where all are equal."""
        if not self.deviation > 0:
            return column * 0.0
        return (column / self.unit - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Standards of the weighted scores where pairs are made of standardised ones, and who is held out."""

    settings: PairSettings
    standards: Mapping[str, Standard] = field(default_factory=dict)
    last_held_out: tuple[int, str] = (-1, "")
    """The hash and the id of the last prompt that is held out, in the order of their hashes."""

    @classmethod
    def of(
        cls, parts: Parts, settings: PairSettings, scorers: Sequence[str], spool: Spool = TemporaryFile
    ) -> Whole:
        """Of all candidates of a run. UserError when more prompts are to be held out than there are."""
        standards = {}
        if settings.normalise == "zscore":
            for name in score_weights(settings, scorers):
                standards[name] = Standard.of(lambda name=name: _values(parts, name))  # type: ignore[misc]
        if not settings.validation_prompts:
            return cls(settings=settings, standards=standards)
        last = _last_held_out(parts, settings.validation_prompts, spool)
        return cls(settings=settings, standards=standards, last_held_out=last)

    def split(self, prompt: str) -> str:
        """The split of a prompt: by share, or those held out that are first in the order of their hashes."""
        if self.settings.validation_prompts:
            return "validation" if _place(prompt) <= self.last_held_out else "train"
        return split_of(prompt, self.settings.validation_fraction)

    def splits(self, prompts: pl.Series) -> pl.Series:
        """The splits of prompts."""
        return pl.Series("split", [self.split(prompt) for prompt in prompts], dtype=pl.String)


class EqualWins:
    """Which pairs are left of each generator when all win as often as the one that wins least.

    Those of the largest margin; ties go by the pair's id. Takes a few passes.
    """

    def __init__(self, parts: Parts, spool: Spool = TemporaryFile) -> None:
        with ExitStack() as opened:
            margins = _margins(parts, lambda: opened.enter_context(Values(spool)))
            least = min((values.size for values in margins.values()), default=0)
            self.least = {name: values.at(values.size - least) for name, values in margins.items()}
            room = {name: least - values.above(self.least[name]) for name, values in margins.items()}
        self.last = {name: nth(partial(self._ties, parts, name), places) for name, places in room.items()}

    def __call__(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Those of the pairs that are left, in their order."""
        names = pairs["chosen_generator"]
        least = pl.Series([self.least[name] for name in names], dtype=pl.Float64)
        last = pl.Series([self.last[name] for name in names], dtype=pl.String)
        margin = pairs["margin"]
        return pairs.filter((margin > least) | ((margin == least) & (pairs["pair_id"] <= last)))

    def _ties(self, parts: Parts, generator: str) -> Iterator[str]:
        for pairs in parts():
            own = (pl.col("chosen_generator") == generator) & (pl.col("margin") == self.least[generator])
            yield from pairs.filter(own)["pair_id"]


def score_weights(settings: PairSettings, scorers: Sequence[str]) -> dict[str, float]:
    """{scorer: weight}; the first scorer alone when no weights are set. UserError for unknown scorers."""
    if not settings.weights:
        return {scorers[0]: 1.0}
    weights: dict[str, float] = {}
    for entry in settings.weights:
        name, _, value = entry.partition("=")
        if name not in scorers:
            raise UserError(
                f"pairs are weighted by {name!r}, which this run does not score",
                "pairs.weights",
                did_you_mean(name, scorers),
            )
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = math.nan
        if not math.isfinite(weights[name]):
            raise UserError(f"{entry!r} is not scorer=number", "pairs.weights")
    return weights


def split_of(prompt_id: str, validation_fraction: float) -> str:
    """The split of a prompt and so of all its pairs: a function of the prompt alone."""
    share = seed_from("split", prompt_id) / 2**31
    return "validation" if share < validation_fraction else "train"


def _values(parts: Parts, scorer: str) -> Iterator[float]:
    for part in parts():
        yield from part["scores"].struct.field(scorer).to_list()


def _place(prompt: str) -> tuple[int, str]:
    """Where a prompt stands in the order by which prompts are held out."""
    return seed_from("split", prompt), prompt


def _last_held_out(parts: Parts, most: int, spool: Spool) -> tuple[int, str]:
    with Values(spool) as hashes:
        for part in parts():
            hashes.add(np.array([_place(prompt)[0] for prompt in part["prompt_id"].unique()]))
        if not hashes.size:
            return (-1, "")
        if most >= hashes.size:
            raise UserError(
                f"{most} prompts cannot be held out of {hashes.size}",
                "pairs.validation_prompts",
                "The same command with fewer continues; no image is made again.",
            )
        last = int(hashes.at(most - 1))
        equal = most - (hashes.size - hashes.above(last - 1))
    alike = (prompt for part in parts() for prompt in part["prompt_id"].unique() if _place(prompt)[0] == last)
    return last, heapq.nsmallest(equal, alike)[-1]


def _margins(parts: Parts, values: Callable[[], Values]) -> dict[str, Values]:
    """The margins of each generator's wins."""
    found: dict[str, Values] = {}
    for pairs in parts():
        for (name,), own in pairs.group_by("chosen_generator"):
            if str(name) not in found:
                found[str(name)] = values()
            found[str(name)].add(own["margin"].to_numpy())
    return found


def nth(texts: Callable[[], Iterable[str]], place: int) -> str:
    """The `place`-th smallest of texts, counted from 1. Each pass over them settles a few letters more."""
    known = ""
    while True:
        counts = Counter(text[: len(known) + _LETTERS] for text in texts() if text.startswith(known))
        beginnings = iter(sorted(counts))
        while counts[beginning := next(beginnings)] < place:
            place -= counts[beginning]
        if counts[beginning] <= _FEW or beginning == known:
            few = (text for text in texts() if text.startswith(beginning))
            return heapq.nsmallest(place, few)[-1]
        known = beginning
