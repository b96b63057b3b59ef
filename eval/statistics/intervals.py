"""Intervals and comparisons over prompts, the unit that repeats (numpy and scipy only).

Student's t for means and paired differences: at n = 8 it covers where the percentile bootstrap does not (see
`coverage`). NaN is a missing number and never a loss. Below five prompts there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEAST = 5
"""Prompts below which an interval would say more than is known."""
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval; `low` and `high` are NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        bounds = f"[{self.low:+.4f}, {self.high:+.4f}]" if self.known else "(no interval)"
        return f"{self.mean:+.4f} {bounds} (n={self.n})"


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference with its interval and the two-sided p of Student's t; NaN where unknown."""

    interval: Interval
    p: float


def mean_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """The mean of the finite `values` [n] with Student's t interval; ValueError when there is none."""
    kept = finite(values)
    if kept.size == 0:
        raise ValueError("no values to average")
    low, high = t_bounds(kept, level) if kept.size >= LEAST else (NAN, NAN)
    return Interval(float(kept.mean()), float(low), float(high), int(kept.size))


def t_bounds(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of Student's t interval of the mean over the last axis (at least two values)."""
    values = np.asarray(values, np.float64)
    n = values.shape[-1]
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    mean = values.mean(axis=-1)
    return mean - half, mean + half


def paired_difference(ours: np.ndarray, theirs: np.ndarray, level: float = 0.95) -> Difference:
    """The mean of ours - theirs over the prompts where both are known; arrays [n] in one order of prompts."""
    gap = finite(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
    interval = mean_interval(gap, level)
    if not interval.known:
        return Difference(interval, NAN)
    spread = float(gap.std(ddof=1)) / math.sqrt(len(gap))
    if spread == 0.0:
        return Difference(interval, 1.0 if interval.mean == 0.0 else 0.0)
    return Difference(interval, float(2 * stats.t.sf(abs(interval.mean) / spread, len(gap) - 1)))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (1979), in the order given; NaN takes no part and stays NaN."""
    values = np.asarray(p, np.float64)
    adjusted = np.full(values.shape, NAN)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return adjusted


def verdict(gain: float, adjusted_p: float, level: float = 0.95) -> str:
    """A sign and a word for a difference that is positive when ours is better; "clearly" only after Holm."""
    if not math.isfinite(adjusted_p):
        return "too few"
    if gain == 0.0:
        return "= equal"
    sign, word = ("+", "better") if gain > 0 else ("-", "worse")
    return f"{sign} clearly {word}" if adjusted_p < 1 - level else f"{sign} {word}, not clear"


def win_rate(ours: np.ndarray, theirs: np.ndarray, level: float = 0.95) -> Interval:
    """The share of the pairs that ours wins, ties half, with Wilson's interval; pairs with a NaN don't count.

    ValueError when no pair is left.
    """
    gap = finite(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
    if gap.size == 0:
        raise ValueError("no pair was measured on both sides")
    share, n = float(np.where(gap == 0, 0.5, gap > 0).mean()), int(gap.size)
    if n < LEAST:
        return Interval(share, NAN, NAN, n)
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n)


def mean_by_prompt(prompts: Sequence[str], values: np.ndarray, aggregate: str = "mean") -> dict[str, float]:
    """The seeds of each prompt as one number (mean, median, max or min); a prompt of NaN alone stays NaN."""
    groups: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        groups.setdefault(prompt, []).append(float(value))
    takes: dict[str, Callable[[np.ndarray], Any]] = {
        "mean": np.mean,
        "median": np.median,
        "max": np.max,
        "min": np.min,
    }
    take = takes[aggregate]
    kept = {prompt: finite(np.array(group)) for prompt, group in groups.items()}
    return {prompt: float(take(group)) if group.size else NAN for prompt, group in kept.items()}


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are numbers, in order."""
    values = np.asarray(values, np.float64)
    return values[np.isfinite(values)]
