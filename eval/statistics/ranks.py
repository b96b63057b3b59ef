"""Ranks over metrics, and how much they hang on one metric, one prompt or one tie rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from eval.statistics.intervals import LEAST, NAN, Interval


@dataclass(frozen=True, slots=True)
class Standing:
    """One method's average rank with its bootstrap interval, and the chance that it is the best of all."""

    rank: Interval
    best: float


def ranks(values: np.ndarray, rule: str = "fractional", decimals: int = 3) -> np.ndarray:
    """The rank of each method under each metric, 1 for the highest value.

    values: [metrics, methods], signed so that higher is better. "fractional" ranks full precision and ties
    share the mean of their places; "paper" rounds to `decimals` first and ties all take the best place, as
    the tables of DRSPO (section 5.2) print them.
    """
    if rule == "paper":
        return np.asarray(stats.rankdata(-np.round(values, decimals), method="min", axis=-1))
    return np.asarray(stats.rankdata(-np.asarray(values), method="average", axis=-1))


def standings(values: np.ndarray, draws: int = 2000, seed: int = 0) -> list[Standing]:
    """Each method's average rank over metrics with a percentile bootstrap over prompts.

    values: [metrics, methods, prompts], higher is better, no NaN. `best` shares a draw among those that tie
    in it. Below five prompts there is no interval and no chance.
    """
    count = values.shape[2]
    point = ranks(values.mean(axis=2)).mean(axis=0)
    if count < LEAST:
        return [Standing(Interval(float(rank), NAN, NAN, count), NAN) for rank in point]
    drawn = drawn_ranks(values, draws, seed)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    first = np.isclose(drawn, drawn.min(axis=1, keepdims=True))
    best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return [
        Standing(Interval(float(point[n]), float(low[n]), float(high[n]), count), float(best[n]))
        for n in range(values.shape[1])
    ]


def drawn_ranks(values: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Average ranks [draws, methods] on prompts drawn again; values: [metrics, methods, prompts]."""
    count = values.shape[2]
    picks = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws) / count
    return np.asarray(ranks(np.einsum("smp,dp->dsm", values, picks)).mean(axis=1))


def rank_differences(values: np.ndarray, ours: int) -> list[Standing]:
    """Each method's average rank less that of the method `ours`, and the chance that it stands before it.

    values: [metrics, methods, prompts], higher is better, no NaN. The same draws as `standings`; a tie in a
    draw counts half. Below five prompts there is no interval and no chance.
    """
    count = values.shape[2]
    point = ranks(values.mean(axis=2)).mean(axis=0)
    if count < LEAST:
        return [Standing(Interval(float(rank), NAN, NAN, count), NAN) for rank in point - point[ours]]
    apart = drawn_ranks(values)
    apart = np.round(apart - apart[:, [ours]], 9)
    low, high = np.quantile(apart, [0.025, 0.975], axis=0)
    before = (apart < 0).mean(axis=0) + (apart == 0).mean(axis=0) / 2
    return [
        Standing(
            Interval(float(point[n] - point[ours]), float(low[n]), float(high[n]), count), float(before[n])
        )
        for n in range(values.shape[1])
    ]


def leave_one_out(means: np.ndarray) -> np.ndarray:
    """Average ranks [metrics, methods] with each metric left out in turn; means: [metrics, methods]."""
    each = ranks(means)
    if len(each) < 2:
        return np.full(each.shape, NAN)
    return (each.sum(axis=0)[None] - each) / (len(each) - 1)


def agreement(values: np.ndarray) -> np.ndarray:
    """Spearman's correlation [metrics, metrics]: do two metrics prefer the same method at the same prompt?

    values: [metrics, methods, prompts], higher is better. Each prompt's mean over the methods is taken out
    first, since easy prompts score high everywhere. NaN for a metric that never varies.
    """
    centred = values - values.mean(axis=1, keepdims=True)
    flat = np.round(centred.reshape(len(values), -1), 12)
    placed = stats.rankdata(flat, axis=1)
    spread = placed.std(axis=1)
    covariance = np.cov(placed, bias=True).reshape(len(values), len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.outer(spread, spread) > 0, covariance / np.outer(spread, spread), NAN)
