"""The gallery of a run folder, also of an unfinished one: the run's last phase again, without its shards."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa

from dataset_builder.config import score_columns, settings_of
from dataset_builder.decided import decided_pairs
from dataset_builder.report import charts
from dataset_builder.report.card import language_hosts
from dataset_builder.report.groups import Gallery, Group, Strip, spread
from dataset_builder.report.pictures import Keep, Picture, kept
from dataset_builder.report.stats import Figures, Prompts
from drspo.files.run import RunDir
from drspo.leaving import public, public_name, public_text
from pipeline.candidates.plan import PLAN_NAME, planned_hash, read_plan_so_far
from pipeline.ideas.finished import read_prompts_so_far
from pipeline.ideas.prompts import reason_kind
from pipeline.pairs.added import Added
from pipeline.pairs.scanned import Scanned
from pipeline.pairs.votes import read_votes
from pipeline.pairs.whole import Whole
from pipeline.records import OK, UnitRow
from pipeline.settings import PairSettings
from pipeline.units import DamagedFile, UnitStore

log = logging.getLogger(__name__)
EXAMPLES = 3  # rows shown for each reason of the funnel


def of_run(run: RunDir, limit: int, height: int, keep: Keep) -> Gallery:
    """A part of the run is in memory at a time, and of the groups that are shown their scores and pairs."""
    manifest = run.manifest()
    config, hosts = settings_of(manifest), language_hosts(settings_of(manifest))
    store = UnitStore(run, planned_hash(run), score_columns(manifest["config"]))
    made = _Made(run, store)
    shown = _Shown(made, limit)
    if not shown.units:
        return of_prompts(run)
    settings = PairSettings(**{**config["pairs"], "weights": tuple(config["pairs"]["weights"])})
    # Who of a number is held out is decided when all are there.
    undecided = settings.validation_prompts > 0 and not made.all
    if undecided:
        settings = replace(settings, validation_prompts=0, validation_fraction=0.0)
    votes = read_votes(run) if settings.source == "votes" else []

    def finish(scored: pl.DataFrame, pairs: pl.DataFrame, _: Whole) -> pl.DataFrame:
        shown.scored(scored)
        return pairs

    with (
        Scanned(store, (unit for units in made for unit in units)) as scanned,
        Added(run, scanned.alive, store.scorers, settings) as added,
        Figures(Prompts.of(read_prompts_so_far(run)), added.scorers, run.spool) as counted,
    ):
        for pairs in decided_pairs(run, scanned, added, settings, votes, counted, finish):
            shown.paired(pairs)
        figures = counted.all(lambda: added.join(scanned.alive()))
    groups = [
        _group(row, shown, added.scorers[0], lambda data: kept(data, height, keep))
        for row in _whole_rows(store, shown.units)
        if row.candidates
    ]
    counts = figures["counts"]
    if undecided:
        counts = {name: count for name, count in counts.items() if not name.startswith("pairs_")}
        groups = [replace(group, split="") for group in groups]
    return Gallery(
        public_name(run.base),
        counts,
        groups,
        counts["groups_ok"] + counted.counts["lost"],
        funnel=public(figures["funnel"], hosts=hosts),
        examples=_examples(read_prompts_so_far(run), hosts),
        drawings=_drawings(figures),
        decided_by=charts.short(figures["decided_by"]),
    )


def of_prompts(run: RunDir) -> Gallery:
    """The gallery of a run that has no images yet: what became of its prompts."""
    hosts = language_hosts(settings_of(run.manifest()))
    with Figures(Prompts.of(read_prompts_so_far(run)), (), run.spool) as counted:
        figures = counted.all(list)
    funnel = public(figures["funnel"], hosts=hosts)
    examples = _examples(read_prompts_so_far(run), hosts)
    return Gallery(public_name(run.base), figures["counts"], [], 0, funnel=funnel, examples=examples)


class _Made:
    """The units that are made, in the plan's order, a piece at a time; and whether they are all."""

    def __init__(self, run: RunDir, store: UnitStore) -> None:
        self.run, self.done = run, store.done()
        whole, planned = run.exists(PLAN_NAME), 0
        self.count = 0
        for piece in read_plan_so_far(run):
            planned += piece.num_rows
            self.count += len(self._made(piece))
        self.all = whole and self.count == planned
        """Whether the plan is whole, and each of its units made."""

    def __iter__(self) -> Iterator[list[str]]:
        return map(self._made, read_plan_so_far(self.run))

    def _made(self, piece: pa.Table) -> list[str]:
        return [unit for unit in piece["unit_id"].to_pylist() if unit in self.done]


class _Shown:
    """The units that are shown, evenly over all of them, with what pairing says of their candidates."""

    def __init__(self, made: _Made, limit: int) -> None:
        self.units: list[str] = []
        places, start = iter(spread(range(made.count), limit)), 0
        place = next(places, None)
        for units in made:
            while place is not None and place < start + len(units):
                self.units.append(units[place - start])
                place = next(places, None)
            start += len(units)
        self._wanted = pl.Series(self.units).implode() if len(self.units) < made.count else None
        self.scores: dict[str, dict[str, Any]] = {}
        self.roles: dict[str, dict[str, Any]] = {}

    def scored(self, candidates: pl.DataFrame) -> None:
        """Keep the scores of those that are shown."""
        own = self._own(candidates)
        self.scores.update(zip(own["candidate_id"], own["scores"], strict=True))

    def paired(self, pairs: pl.DataFrame) -> None:
        """Keep what the pairs say of those that are shown; of several pairs of a prompt the widest counts."""
        for pair in self._own(pairs).sort("margin", descending=True, maintain_order=True).to_dicts():
            roles = {pair["chosen_id"]: "chosen", pair["rejected_id"]: "rejected"}
            told = {"margin": pair["margin"], "split": pair["split"], **roles}
            self.roles.setdefault(pair["prompt_id"], told)

    def _own(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows if self._wanted is None else rows.filter(pl.col("unit_id").is_in(self._wanted))


def _whole_rows(store: UnitStore, units: Sequence[str]) -> Iterator[UnitRow]:
    """The rows of the units, without those of damaged ones, which are told."""
    for unit in units:
        try:
            yield from store.read_rows(unit)
        except DamagedFile as error:
            log.warning("%s is not shown: %s", error.name, error.why)


def _group(row: UnitRow, shown: _Shown, scorer: str, picture: Callable[[bytes], Picture]) -> Group:
    mine = shown.roles.get(row.prompt_id, {})
    strips = []
    for candidate in sorted(row.candidates, key=lambda c: (c.rank is None, c.rank or 0)):
        found = shown.scores.get(candidate.candidate_id, candidate.scores) or {}
        scores = {name: value for name, value in found.items() if value is not None}
        strips.append(
            Strip(
                generator=charts.short(candidate.generator),
                seed=candidate.seed,
                score=scores.get(scorer),
                scores=scores,
                picture=picture(candidate.image["bytes"]) if candidate.image else None,
                role=mine.get(candidate.candidate_id, ""),
                rank=candidate.rank,
                error=public_text(candidate.error),
            )
        )
    return Group(
        prompt=row.prompt, strips=tuple(strips), margin=mine.get("margin"), split=mine.get("split", "")
    )


def _examples(prompts: Iterable[pa.Table], hosts: tuple[str, ...]) -> dict[str, list[str]]:
    """{kind of reason: a few rows}, as "text: reason"."""
    found: dict[str, list[str]] = defaultdict(list)
    for piece in prompts:
        lost = piece.filter(pa.compute.not_equal(piece["status"], OK))
        for row in lost.select(["text", "source_text", "reason"]).to_pylist():
            kind = public_text(reason_kind(row["reason"]), hosts)
            if len(found[kind]) < EXAMPLES:
                text = (row["text"] or row["source_text"])[:160]
                found[kind].append(f"{text or '(nothing)'} \u2014 {public_text(row['reason'], hosts)}")
    return dict(found)


def _drawings(figures: dict[str, Any]) -> list[str]:
    drawings = [
        charts.distributions(
            charts.short(name), {g: f.get("histogram", {}) for g, f in each["by_generator"].items()}
        )
        for name, each in figures["scores"].items()
    ]
    drawings.append(
        charts.distributions("margin of the pairs", {"pairs": figures["margins"].get("histogram", {})})
    )
    return [*drawings, charts.win_matrix(figures["win_rates"])]
