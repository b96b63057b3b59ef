"""`stats.json`: what the data set is made of, in numbers that its card and its gallery show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.ideas.prompts import reason_kind
from pipeline.pairs.whole import Parts
from pipeline.records import DEAD, OK
from pipeline.values import Values

STATS_NAME = "stats.json"
BINS = 24


@dataclass
class Prompts:
    """What became of a run's prompts: how many there are of each status, and why others were lost."""

    states: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, pieces: Iterable[pa.Table]) -> Prompts:
        """Counted over the pieces of the table."""
        found = cls()
        for piece in pieces:
            found.states.update(piece["status"].to_pylist())
            found.losses.update(prompt_losses(piece))
        found.losses = Counter(dict(sorted(found.losses.items())))
        return found

    @property
    def rows(self) -> int:
        """All of them."""
        return self.states.total()

    @property
    def accepted(self) -> int:
        """Those that go on to images."""
        return self.states[OK]


class Figures:
    """The figures of a run, counted part by part. Parts hold whole groups."""

    def __init__(
        self, prompts: Prompts, scorers: Sequence[str], spool: Callable[[], BinaryIO] = TemporaryFile
    ) -> None:
        """`spool` opens a file without a name, for numbers of which there is one a pair or an image."""
        self.prompts, self.scorers, self.spool = prompts, tuple(scorers), spool
        self.counts: Counter[str] = Counter()
        self.dead, self.failed = Counter[str](), Counter[str]()
        self.splits: Counter[str] = Counter()
        self.chosen, self.rejected = Counter[str](), Counter[str]()
        self.wins: dict[tuple[str, str], list[float]] = {}
        self.generators: set[str] = set()
        self.margins = Values(spool)
        self.decided_by = ""
        """What is higher where a generator wins."""
        self._last = ""

    def __enter__(self) -> Figures:
        return self

    def __exit__(self, *_: object) -> None:
        self.margins.close()

    def candidates(self, rows: pl.DataFrame) -> None:
        """Count a part of all candidates, dead and alive."""
        ok = rows.filter(pl.col("status") == OK)
        dead = rows.filter(pl.col("status") == DEAD).unique("prompt_id")
        self.counts.update(
            units=rows["unit_id"].n_unique(),
            groups_ok=ok["prompt_id"].n_unique(),
            groups_dead=dead.height,
            lost=rows.filter(pl.col("status") != OK)["prompt_id"].n_unique(),
            images=int((rows["image_bytes"] > 0).sum()),
            images_scored=int(rows["scored"].sum()),
            image_bytes=int(rows["image_bytes"].sum() or 0),
            candidates=ok["candidate_id"].drop_nulls().n_unique(),
        )
        self.dead.update(_kinds(dead["group_error"].to_list()))
        self.failed.update(_kinds(ok.filter(~pl.col("scored"))["error"].to_list()))

    def alive(self, rows: pl.DataFrame) -> None:
        """Count a part of those that can be paired, with all scores and the `score` that decides."""
        self.generators.update(rows["generator"].unique())
        for pair, (won, count) in wins(rows).items():
            known = self.wins.setdefault(pair, [0.0, 0.0])
            known[0], known[1] = known[0] + won, known[1] + count

    def pairs(self, rows: pl.DataFrame) -> None:
        """Count some pairs; those of a prompt stand together."""
        if rows.is_empty():
            return
        prompts = rows["prompt_id"]
        self.counts.update(paired=prompts.n_unique() - (prompts[0] == self._last), pairs=rows.height)
        self._last = str(prompts[-1])
        self.splits.update(rows["split"].to_list())
        self.chosen.update(rows["chosen_generator"].to_list())
        self.rejected.update(rows["rejected_generator"].to_list())
        self.margins.add(rows["margin"].to_numpy())

    def all(self, alive: Parts) -> dict[str, Any]:
        """All figures; a function of the tables alone, so that the same run gives the same file."""
        names = sorted(self.generators)
        sides = {"chosen": self.chosen, "rejected": self.rejected}
        return {
            "counts": self._counts(),
            "funnel": self._funnel(),
            "margins": summary(self.margins),
            "scores": {name: score_figures(alive, name, self.spool) for name in self.scorers},
            "decided_by": self.decided_by,
            "win_rates": {a: {b: self._rate(a, b) for b in names if b != a} for a in names},
            "pairs_by_generator": {
                name: {side: counted[name] for side, counted in sides.items()}
                for name in sorted({*self.chosen, *self.rejected})
            },
        }

    def _counts(self) -> dict[str, int]:
        """Prompts, units, images and pairs, by what became of them."""
        names = ("units", "groups_ok", "groups_dead", "images", "images_scored", "image_bytes", "pairs")
        return {
            "prompts": self.prompts.rows,
            "prompts_accepted": self.prompts.accepted,
            **{name: self.counts[name] for name in names},
            **{f"pairs_{split}": self.splits[split] for split in ("train", "validation")},
        }

    def _funnel(self) -> list[dict[str, Any]]:
        """What came in and what left at each step: [{step, count, lost: {reason: count}}]."""
        groups, paired = self.counts["groups_ok"], self.counts["paired"]
        steps: tuple[tuple[str, int, Mapping[str, int]], ...] = (
            ("prompts", self.prompts.rows, self.prompts.losses),
            ("accepted", self.prompts.accepted, self.dead),
            ("groups", groups, {"no pair within the margin": groups - paired}),
            ("candidates", self.counts["candidates"], self.failed),
            ("pairs", self.counts["pairs"], {}),
        )
        return [{"step": step, "count": count, "lost": dict(lost)} for step, count, lost in steps]

    def _rate(self, name: str, other: str) -> float | None:
        won, count = self.wins.get((name, other), (0.0, 0.0))
        return won / count if count else None


def write(storage: Storage, figures: dict[str, Any]) -> None:
    """Store the figures as stats.json."""
    text = json.dumps(figures, indent=2, sort_keys=True, allow_nan=False)
    storage.write(STATS_NAME, f"{text}\n".encode())


def prompt_losses(prompts: pa.Table) -> dict[str, int]:
    """{kind of reason: count} over the prompts that were dropped or died."""
    rows = zip(prompts["status"].to_pylist(), prompts["reason"].to_pylist(), strict=True)
    return dict(sorted(Counter(reason_kind(reason) for status, reason in rows if status != OK).items()))


def summary(values: pl.Series | np.ndarray | Values) -> dict[str, Any]:
    """Count, mean, quantiles and a histogram of the values."""
    if not isinstance(values, Values):
        known = values.drop_nulls().to_numpy() if isinstance(values, pl.Series) else values
        with Values() as some:
            some.add(known)
            return summary(some)
    if not values.size:
        return {"count": 0}
    least, most = values.at(0), values.at(values.size - 1)
    # In halves: the span of two huge numbers may be none.
    edges = 2 * np.linspace(least / 2, (most if most > least else least + 1) / 2, BINS + 1)
    counts = sum(np.histogram(some, edges)[0] for some in values.blocks())
    return {
        "count": values.size,
        "mean": values.mean(),
        "std": values.deviation(),
        "min": least,
        "max": most,
        **{f"q{int(100 * q):02d}": values.quantile(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "histogram": {"edges": edges.tolist(), "counts": np.asarray(counts).tolist()},
    }


def score_figures(alive: Parts, scorer: str, spool: Callable[[], BinaryIO] = TemporaryFile) -> dict[str, Any]:
    """The distribution of one scorer, over all candidates and per generator."""
    with ExitStack() as opened:
        whole, found = opened.enter_context(Values(spool)), dict[str, Values]()
        for part in alive():
            values = part.select("generator", value=pl.col("scores").struct.field(scorer))
            for (name,), own in values.group_by("generator"):
                if str(name) not in found:
                    found[str(name)] = opened.enter_context(Values(spool))
                known = own["value"].drop_nulls().to_numpy()
                found[str(name)].add(known)
                whole.add(known)
        per = {name: summary(found[name]) for name in sorted(found)}
        return {**summary(whole), "by_generator": per}


def wins(candidates: pl.DataFrame) -> dict[tuple[str, str], tuple[float, int]]:
    """{(a, b): (wins, pairs)}: in how many prompts' image pairs `a` scores above `b`; a tie is half a win."""
    values = candidates.select("prompt_id", "generator", value="score")
    pairs = values.join(values, on="prompt_id", suffix="_other").filter(
        pl.col("generator") != pl.col("generator_other")
    )
    win = (pl.col("value") > pl.col("value_other")).cast(pl.Float64)
    tie = (pl.col("value") == pl.col("value_other")).cast(pl.Float64)
    won = win + tie / 2
    table = pairs.group_by("generator", "generator_other").agg(won=won.sum(), count=won.count())
    return {(a, b): (won, count) for a, b, won, count in table.iter_rows()}


def _kinds(errors: Sequence[str | None]) -> dict[str, int]:
    """Errors counted by their kind, which is what stands before the details."""
    kinds = Counter((error or "unknown").partition(": ")[0][:120] for error in errors)
    return dict(sorted(kinds.items()))
