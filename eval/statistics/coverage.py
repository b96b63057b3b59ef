"""`python -m eval --coverage`: how often the intervals hold the truth, by simulation, printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from eval.statistics.intervals import t_bounds

SIZES = (8, 16, 40, 220)
PROMISE = (0.93, 0.98)
"""What a 95 % interval of a paired difference must cover, at every size and for both kinds of methods."""


Kind = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray, float]]
"""A way to draw two methods' scores [runs, n] with the true difference of their means."""


def normal(rng: np.random.Generator, runs: int, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two methods [runs, n] with a prompt's level plus their own noise; and the true difference."""
    level = rng.normal(0.0, 1.0, (runs, n))
    ours = level + 0.2 + rng.normal(0.0, 0.5, (runs, n))
    return ours, level + rng.normal(0.0, 0.5, (runs, n)), 0.2


def lognormal(rng: np.random.Generator, runs: int, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The same with skewed scores: exp(level + noise), where ours is a tenth higher throughout."""
    level = rng.normal(0.0, 0.5, (runs, n))
    ours = 1.1 * np.exp(level + rng.normal(0.0, 0.5, (runs, n)))
    return ours, np.exp(level + rng.normal(0.0, 0.5, (runs, n))), 0.1 * float(np.exp(0.25))


def wild(factor: float) -> Kind:
    """Lognormal methods that share no level, sigma 1, ours `factor` times as high: the hardest kind."""

    def draw(rng: np.random.Generator, runs: int, n: int) -> tuple[np.ndarray, np.ndarray, float]:
        ours, theirs = np.exp(rng.normal(0.0, 1.0, (2, runs, n)))
        return factor * ours, theirs, (factor - 1) * float(np.exp(0.5))

    return draw


KINDS: dict[str, Kind] = {"normal": normal, "lognormal": lognormal, "lognormal, sigma 1": wild(1.1)}
"""Pairs of methods for which the promise holds."""
BEYOND: dict[str, Kind] = {"lognormal, sigma 1, one twice the other": wild(2.0)}
"""Pairs for which it is not made: the difference itself is skewed."""


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(((low <= truth) & (truth <= high)).mean())


def difference_coverage(kind: str, n: int, runs: int = 20_000, seed: int = 0) -> float:
    """The share of 95 % t intervals of a paired difference that hold the true one."""
    ours, theirs, truth = (KINDS | BEYOND)[kind](np.random.default_rng([seed, n]), runs, n)
    return covered(*t_bounds(ours - theirs), truth)


def mean_coverage(sigma: float, n: int, runs: int = 20_000, seed: int = 0) -> float:
    """The same for the mean of one method's scores, lognormal with this sigma: skewed, and it shows."""
    values = np.exp(np.random.default_rng([seed, n]).normal(0.0, sigma, (runs, n)))
    return covered(*t_bounds(values), float(np.exp(sigma**2 / 2)))


def bootstrap_coverage(kind: str, n: int, runs: int = 400, draws: int = 1000, seed: int = 0) -> float:
    """What the percentile bootstrap of the same differences covers, for comparison."""
    rng = np.random.default_rng([seed, n])
    ours, theirs, truth = KINDS[kind](rng, runs, n)
    counts = rng.multinomial(n, np.full(n, 1 / n), draws) / n
    low, high = np.quantile((ours - theirs) @ counts.T, [0.025, 0.975], axis=1)
    return covered(low, high, truth)


def main(argv: list[str]) -> int:
    """Prints the table; 0 when every paired difference keeps the promise, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m eval --coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="simulated comparisons per cell")
    runs = max(1, parser.parse_args(argv).runs)
    print(f"Coverage of 95 % intervals, {runs} simulated comparisons each (bootstrap: 400)\n")
    print("| paired difference, methods | interval | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    kept = True
    for kind in KINDS:
        found = [difference_coverage(kind, n, runs) for n in SIZES]
        kept = kept and all(PROMISE[0] <= share <= PROMISE[1] for share in found)
        print(_line(kind, "Student's t", found))
        print(_line(kind, "percentile bootstrap", [bootstrap_coverage(kind, n) for n in SIZES]))
    for kind in BEYOND:
        name = f"{kind} (no promise)"
        print(_line(name, "Student's t", [difference_coverage(kind, n, runs) for n in SIZES]))
    print("\n| mean of skewed scores | interval | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    for sigma in (0.5, 1.0):
        name = f"lognormal, sigma {sigma:g}"
        print(_line(name, "Student's t", [mean_coverage(sigma, n, runs) for n in SIZES]))
    promise = f"{100 * PROMISE[0]:.0f} to {100 * PROMISE[1]:.0f} %"
    print(f"\nPaired differences {'keep' if kept else 'BREAK'} the promise of {promise}.")
    return 0 if kept else 1


def _line(name: str, interval: str, shares: list[float]) -> str:
    return f"| {name} | {interval} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |"
