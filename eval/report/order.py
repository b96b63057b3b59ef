"""The order in which methods stand: who has clearly fewer surplus objects first, then the average rank.

An average over scores cannot see repetition: most of them look at windows or at the whole made small, and
five such scores outvote the one that counts. So coherence decides wherever it is clear, taste only beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from eval.report.comparison import Comparison
from eval.statistics.intervals import Interval, holm, paired_difference

COHERENCE = ("surplus", "surplus_photo")
"""The measures of surplus objects, the first of which decides where it is among what is ranked."""
CLEAR = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """One method in order, and why it stands there."""

    method: str
    surplus: Interval
    before: dict[str, Interval]
    """{method: its surplus less ours} for each that has clearly more, after Holm over all pairs."""
    rank: float


def clearly_fewer(found: Comparison, scorer: str) -> dict[str, dict[str, Interval]]:
    """{method: {another: by how much its mean is lower}} where that is clear after Holm over all pairs."""
    methods, values = found.prompt_means(scorer)
    pairs = list(combinations(range(len(methods)), 2))
    compared = [paired_difference(values[second], values[first]) for first, second in pairs]
    before: dict[str, dict[str, Interval]] = {method: {} for method in methods}
    for (first, second), gap, p in zip(pairs, compared, holm([gap.p for gap in compared]), strict=True):
        if not p < CLEAR:
            continue
        there = gap.interval
        if there.mean > 0:
            before[methods[first]][methods[second]] = there
        else:
            turned = Interval(-there.mean, -there.high, -there.low, there.n)
            before[methods[second]][methods[first]] = turned
    return before


def order(found: Comparison) -> list[Place]:
    """The methods that have all numbers, the first first; empty where surplus objects are not ranked.

    Of those left, the next is the one with the best average rank among the methods that none of the others
    left has clearly fewer surplus objects than.
    """
    scorer = next((name for name in COHERENCE if name in found.ranked), "")
    if not scorer or not found.standings:
        return []
    before = clearly_fewer(found, scorer)
    means = {row.method: row.mean for row in found.rows if row.scorer == scorer}
    ranks = {method: found.standings[method].rank.mean for method in before}
    placed, left = list[Place](), list(before)
    while left:
        # A clear difference is one of means over the same prompts, so that no circle of them can close.
        free = [method for method in left if not any(method in before[other] for other in left)]
        chosen = min(free, key=lambda method: ranks[method])
        left.remove(chosen)
        placed.append(Place(chosen, means[chosen], before[chosen], ranks[chosen]))
    return placed
