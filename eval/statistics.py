"""Intervals and paired comparisons over prompts, the unit that repeats (numpy and scipy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}] (n={self.n})"


def bootstrap_ci(values: np.ndarray, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """The mean of `values` [n] with its percentile bootstrap interval; ValueError when empty."""
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("no values to average")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def mean_by_prompt(prompts: list[str], values: np.ndarray) -> dict[str, float]:
    """Seeds averaged within each prompt: prompts, not seeds, are the independent units."""
    groups: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        groups.setdefault(prompt, []).append(float(value))
    return {prompt: float(np.mean(group)) for prompt, group in groups.items()}


def paired_difference(
    ours: dict[str, float], theirs: dict[str, float], level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """The mean difference ours - theirs over the same prompts, with a bootstrap interval.

    ValueError when the prompts differ: a comparison of different sets is not a comparison.
    """
    if ours.keys() != theirs.keys():
        missing = sorted(ours.keys() ^ theirs.keys())[:3]
        raise ValueError(f"the two sides were not measured on the same prompts, for example {missing}")
    return bootstrap_ci(np.array([ours[key] - theirs[key] for key in sorted(ours)]), level, draws, seed)


def win_rate(ours: np.ndarray, theirs: np.ndarray, tie_margin: float = 0.0) -> Interval:
    """The share of pairs that ours wins (ties half) with Wilson's 95 % interval."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    wins = np.where(np.abs(difference) <= tie_margin, 0.5, (difference > 0).astype(float))
    n, share, z = len(wins), float(wins.mean()), 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)


def sign_flip_p(differences: np.ndarray, draws: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of a mean difference under random sign flips."""
    values = np.asarray(differences, np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(values)))
    beyond = np.abs((signs * values).mean(axis=1)) >= abs(values.mean()) - 1e-15
    return float((beyond.sum() + 1) / (draws + 1))
