"""What votes say of methods and of judges: Bradley-Terry strengths with intervals, agreement, attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from drspo.hashing import seed_from
from pipeline.pairs.votes import Vote

LEAST_PROMPTS = 5
DRAWS = 1000
PRIOR = 0.5
"""Of a win and of a loss against the average method, so that one who never lost has a finite strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A method among the judged ones: its chance to be preferred to an average one, with its interval."""

    method: str
    chance: float
    low: float
    high: float
    wins: float
    votes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """One judge: how many ballots, how many checks, and how many of them were called equal."""

    judge: str
    votes: int
    checks: int
    attentive: int


def methods(votes: Iterable[Vote], method_of: dict[str, str], prompt_of: dict[str, str]) -> list[Standing]:
    """Every method's strength (Bradley and Terry 1952), best first; ties are half a win for both.

    Intervals are percentiles of a bootstrap over prompts, and none (NaN) below five prompts.
    """
    names = sorted(set(method_of.values()))
    groups: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((len(names), len(names))))
    for vote in votes:
        first, second = method_of.get(vote.first), method_of.get(vote.second)
        if vote.is_check or first is None or second is None or first == second:
            continue
        a, b = names.index(first), names.index(second)
        won = {"first": 1.0, "second": 0.0}.get(vote.verdict, 0.5)
        groups[prompt_of[vote.first]][a, b] += won
        groups[prompt_of[vote.first]][b, a] += 1 - won
    if not groups:
        return []
    stack = np.stack([groups[name] for name in sorted(groups)])
    seen = [n for n in range(len(names)) if stack[:, n].sum() + stack[:, :, n].sum() > 0]
    stack = stack[:, seen][:, :, seen]
    point = strengths(stack.sum(axis=0))
    low, high = _bounds(stack)
    wins = stack.sum(axis=(0, 2))
    votes_of = wins + stack.sum(axis=(0, 1))
    found = [
        Standing(
            method=names[seen[n]], chance=float(_chance(point)[n]), low=float(low[n]), high=float(high[n]),
            wins=float(wins[n]), votes=int(round(votes_of[n])),
        )
        for n in range(len(seen))
    ]  # fmt: skip
    return sorted(found, key=lambda standing: (-standing.chance, standing.method))


def strengths(wins: np.ndarray, rounds: int = 2000) -> np.ndarray:
    """Log strengths with mean 0 of a table of wins [winner, loser], by Hunter's (2004) MM steps."""
    count = len(wins)
    games = wins + wins.T
    won = wins.sum(axis=1) + PRIOR
    strength = np.ones(count)
    for _ in range(rounds):
        met = (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        after = won / (met + 2 * PRIOR / (strength + 1))
        after /= np.exp(np.log(after).mean())
        if np.abs(np.log(after) - np.log(strength)).max() < 1e-9:
            strength = after
            break
        strength = after
    return np.asarray(np.log(strength))


def _chance(log_strengths: np.ndarray) -> np.ndarray:
    """The chance to be preferred to a method of the mean strength."""
    return np.asarray(1 / (1 + np.exp(-log_strengths)))


def _bounds(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count, size = stack.shape[:2]
    if count < LEAST_PROMPTS:
        return np.full(size, np.nan), np.full(size, np.nan)
    rng = np.random.default_rng(seed_from("bradley-terry", count, size))
    picks = rng.multinomial(count, np.full(count, 1 / count), DRAWS)
    drawn = np.stack([_chance(strengths(np.tensordot(pick, stack, 1), 200)) for pick in picks])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def agreement(votes: Iterable[Vote]) -> tuple[float, float, int]:
    """(share of equal verdicts, Krippendorff's alpha, ballots) where several judges had the same ballot.

    Verdicts are first, second and neither; alpha (2004) is 1 for full agreement, 0 for chance. NaN where no
    ballot has two judges.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for vote in votes:
        if not vote.is_check:
            groups[vote.ballot].append("neither" if vote.verdict in ("tie", "bad") else vote.verdict)
    shared = [verdicts for verdicts in groups.values() if len(verdicts) > 1]
    if not shared:
        return float("nan"), float("nan"), 0
    equal = [a == b for verdicts in shared for a, b in combinations(verdicts, 2)]
    kinds = ("first", "second", "neither")
    together = np.zeros((3, 3))
    for verdicts in shared:
        counts = np.array([verdicts.count(kind) for kind in kinds], dtype=float)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(verdicts) - 1)
    totals = together.sum(axis=1)
    everything = totals.sum()
    observed = (together.sum() - np.trace(together)) / everything
    expected = 1 - float((totals * (totals - 1)).sum()) / (everything * (everything - 1))
    alpha = 1.0 if observed == 0 else (1 - observed / expected if expected else float("nan"))
    return float(np.mean(equal)), float(alpha), len(shared)


def judges(votes: Sequence[Vote]) -> list[Judging]:
    """Every judge with the checks that they passed, by name."""
    found = []
    for name in sorted({vote.judge for vote in votes}):
        mine = [vote for vote in votes if vote.judge == name]
        checks = [vote for vote in mine if vote.is_check]
        passed = sum(vote.verdict in ("tie", "bad") for vote in checks)
        found.append(Judging(judge=name, votes=len(mine) - len(checks), checks=len(checks), attentive=passed))
    return found
