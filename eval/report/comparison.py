"""Per-image records to tables: means with intervals, paired differences, win rates, ranks.

The unit is the prompt: seeds become one number first, as the metric says. Methods are compared on the
pictures that all of them have a number for; what is missing is counted and said, and is never a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from drspo.errors import UserError
from drspo.leaving import public_text
from eval.benchmark.records import Record
from eval.metrics.pickscore import shares
from eval.statistics.intervals import (
    NAN,
    Interval,
    holm,
    mean_by_prompt,
    mean_interval,
    paired_difference,
    verdict,
    win_rate,
)
from eval.statistics.ranks import Standing, agreement, leave_one_out, ranks, standings


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method under one scorer."""

    method: str
    scorer: str
    mean: Interval
    difference: Interval | None
    """Against the baseline over the same prompts; None for the baseline itself."""
    wins: Interval | None
    p: float
    """Of the difference, adjusted by Holm over all differences of the table; NaN where there is none."""
    verdict: str
    """A sign and a word: + is better whichever way the metric points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What could not be compared under one scorer."""

    scorer: str
    method: str
    pictures: int
    reason: str


def _public(record: Record) -> Record:
    """The record as pages and tables may show it: without the places of this machine."""
    return replace(record, checkpoint=public_text(record.checkpoint), error=public_text(record.error))


class Comparison:
    """All that is derived from records: `rows`, `standings`, and what they hang on.

    `trained` names scorers that were training labels: they are marked, and a second average leaves them out.
    `aside` names scorers that no rank counts.
    """

    def __init__(
        self,
        records: Sequence[Record],
        baseline: str,
        trained: Sequence[str] = (),
        aside: Sequence[str] = (),
    ) -> None:
        self.records, self.baseline = list(map(_public, records)), baseline
        self.methods = list(dict.fromkeys(record.method for record in records))
        self.scorers = list(dict.fromkeys(record.scorer for record in records))
        self.trained, self.aside = tuple(trained), tuple(aside)
        self.ranked = [scorer for scorer in self.scorers if scorer not in self.aside]
        self.about = {record.scorer: record for record in reversed(self.records)}
        self._known = self._values()
        if baseline not in self.methods:
            raise UserError(
                f"the baseline {baseline!r} is not among the methods", "", f"choose from {self.methods}"
            )

    @cached_property
    def missing(self) -> list[Missing]:
        """Pictures without a number, by scorer and method, with the first reason."""
        found = []
        for scorer in self.scorers:
            cells = set().union(*(set(self._known[scorer][method]) for method in self.methods))
            for method in self.methods:
                known = self._known[scorer][method]
                lost = [cell for cell in cells if not np.isfinite(known.get(cell, NAN))]
                if lost:
                    reasons = (
                        r.error for r in self.records if (r.scorer, r.method) == (scorer, method) and r.error
                    )
                    reason = next(reasons, "no number was taken")
                    found.append(Missing(scorer=scorer, method=method, pictures=len(lost), reason=reason))
        return found

    def prompt_means(self, scorer: str) -> tuple[list[str], np.ndarray]:
        """(methods that have a number, [methods, prompts]) over the pictures they share."""
        known = {
            method: {cell for cell, value in self._known[scorer][method].items() if np.isfinite(value)}
            for method in self.methods
        }
        methods = [method for method in self.methods if known[method]]
        if not methods:
            return [], np.zeros((0, 0))
        common = sorted(set.intersection(*(known[method] for method in methods)))
        how = self.about[scorer].aggregate
        rows = []
        for method in methods:
            values = np.array([self._known[scorer][method][cell] for cell in common])
            rows.append(list(mean_by_prompt([prompt for prompt, _ in common], values, how).values()))
        return methods, np.array(rows).reshape(len(methods), -1)

    @cached_property
    def rows(self) -> list[Row]:
        """A row per scorer and method, in order of first appearance; Holm runs over all of them."""
        drafts = [
            (scorer, method, *self._compared(scorer, method))
            for scorer in self.scorers
            for method in self.prompt_means(scorer)[0]
            if self.prompt_means(scorer)[1].size
        ]
        adjusted = holm([draft[5] for draft in drafts])
        return [
            Row(
                method=method,
                scorer=scorer,
                mean=mean,
                difference=difference,
                wins=wins,
                p=float(p),
                verdict="" if difference is None else verdict(self._sign(scorer) * difference.mean, float(p)),
            )
            for (scorer, method, mean, difference, wins, _), p in zip(drafts, adjusted, strict=True)
        ]

    def array(self, scorers: Sequence[str] | None = None, methods: Sequence[str] | None = None) -> np.ndarray:
        """[scorers, methods, prompts], higher is better, over the pictures that every scorer has of all."""
        chosen = list(self.scorers if scorers is None else scorers)
        named = list(self.methods if methods is None else methods)
        common: set[tuple[str, int]] | None = None
        for scorer in chosen:
            for method in named:
                known = {cell for cell, value in self._known[scorer][method].items() if np.isfinite(value)}
                common = known if common is None else common & known
        cells = sorted(common or ())
        rows = [
            [
                list(
                    mean_by_prompt(
                        [prompt for prompt, _ in cells],
                        self._sign(scorer) * np.array([self._known[scorer][method][cell] for cell in cells]),
                        self._aggregate(scorer),
                    ).values()
                )
                for method in named
            ]
            for scorer in chosen
        ]
        return np.array(rows).reshape(len(chosen), len(named), -1)

    @cached_property
    def standings(self) -> dict[str, Standing]:
        """Each method's average rank with interval and chance to be best; empty without shared pictures."""
        return self._standings(self.ranked)

    @cached_property
    def untrained_standings(self) -> dict[str, Standing]:
        """The same without training labels; empty when there are none, or nothing else."""
        rest = [scorer for scorer in self.ranked if scorer not in self.trained]
        return self._standings(rest) if rest and len(rest) < len(self.ranked) else {}

    @cached_property
    def leave_one_out(self) -> dict[str, dict[str, float]]:
        """{scorer left out: {method: average rank}}; empty with one scorer or without common pictures."""
        values = self.array(self.ranked)
        if len(values) < 2 or not values.shape[2]:
            return {}
        found = leave_one_out(values.mean(axis=2))
        return {
            scorer: dict(zip(self.methods, map(float, row), strict=True))
            for scorer, row in zip(self.ranked, found, strict=True)
        }

    @cached_property
    def paper_ranks(self) -> dict[str, float]:
        """Average ranks by the paper's tie rule: three decimals, ties take the best place."""
        values = self.array(self.ranked)
        if not values.shape[2]:
            return {}
        found = ranks(values.mean(axis=2), "paper").mean(axis=0)
        return dict(zip(self.methods, map(float, found), strict=True))

    @cached_property
    def correlations(self) -> np.ndarray:
        """Spearman's correlation [scorers, scorers] of what they prefer at the same prompt."""
        values = self.array()
        return agreement(values) if values.shape[2] else np.full((len(values), len(values)), NAN)

    def pick_shares(self, scorer: str = "pickscore") -> dict[str, float]:
        """Each method's mean share of the picks within the group of all methods here, from raw PickScores."""
        if scorer not in self.scorers:
            return {}
        known = self._known[scorer]
        cells = sorted(set.intersection(*(set(known[method]) for method in self.methods)))
        raw = np.array([[known[method][cell] for method in self.methods] for cell in cells])
        raw = raw[np.isfinite(raw).all(axis=1)] if raw.size else np.zeros((0, len(self.methods)))
        return dict(zip(self.methods, map(float, shares(raw).mean(axis=0)), strict=True)) if len(raw) else {}

    def _standings(self, scorers: Sequence[str]) -> dict[str, Standing]:
        values = self.array(scorers)
        if not values.shape[2]:
            return {}
        return dict(zip(self.methods, standings(values), strict=True))

    def _compared(self, scorer: str, method: str) -> tuple[Interval, Interval | None, Interval | None, float]:
        methods, values = self.prompt_means(scorer)
        ours = values[methods.index(method)]
        if method == self.baseline or self.baseline not in methods:
            return mean_interval(ours), None, None, NAN
        theirs, sign = values[methods.index(self.baseline)], self._sign(scorer)
        found = paired_difference(ours, theirs)
        return mean_interval(ours), found.interval, win_rate(sign * ours, sign * theirs), found.p

    def _sign(self, scorer: str) -> int:
        return 1 if self.about[scorer].higher_is_better else -1

    def _aggregate(self, scorer: str) -> str:
        """How seeds become one number once the sign is turned: the largest loss is the smallest gain."""
        how = self.about[scorer].aggregate
        return {"max": "min", "min": "max"}.get(how, how) if self._sign(scorer) < 0 else how

    def _values(self) -> dict[str, dict[str, dict[tuple[str, int], float]]]:
        found: dict[str, dict[str, dict[tuple[str, int], float]]] = {
            scorer: {method: {} for method in self.methods} for scorer in self.scorers
        }
        for record in self.records:
            found[record.scorer][record.method][record.prompt, record.seed] = record.value
        return found

    def pictures(self, scorer: str) -> tuple[int, int]:
        """(pictures that were compared per method, pictures that any method has) under a scorer."""
        known = self._known[scorer]
        every = set().union(*(set(known[method]) for method in self.methods))
        with_number = [{c for c, v in known[m].items() if np.isfinite(v)} for m in self.methods]
        with_number = [cells for cells in with_number if cells]
        return len(set.intersection(*with_number)) if with_number else 0, len(every)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        from dataclasses import asdict

        return {
            "baseline": self.baseline,
            "ranked_by": self.ranked,
            "training_labels": list(self.trained),
            "rows": [asdict(row) for row in self.rows],
            "missing": [asdict(item) for item in self.missing],
            "ranks": {name: asdict(standing) for name, standing in self.standings.items()},
            "ranks_without_training_labels": {
                name: asdict(standing) for name, standing in self.untrained_standings.items()
            },
            "ranks_paper_rule": self.paper_ranks,
            "leave_one_out": self.leave_one_out,
            "correlations": {"scorers": self.scorers, "values": self.correlations.tolist()},
            "pick_shares": {"group": self.methods, "shares": self.pick_shares()},
        }
