"""What the gallery shows, read from a run folder or an export: groups of scrolls, figures, the funnel."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jinja2
import polars as pl
import pyarrow as pa

from dataset_builder.config import score_columns, settings_of
from dataset_builder.decided import decided_pairs
from dataset_builder.report import charts, stats
from dataset_builder.report.card import language_hosts
from dataset_builder.report.pictures import Keep, Picture, kept
from dataset_builder.report.stats import Figures, Prompts
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.leaving import public, public_name, public_text
from drspo.web import viewer
from pipeline.candidates.plan import plan_names, planned_hash, read_plan_so_far
from pipeline.ideas.finished import read_prompts_so_far
from pipeline.ideas.prompts import reason_kind
from pipeline.pairs.added import Added
from pipeline.pairs.scanned import Scanned
from pipeline.pairs.votes import read_votes
from pipeline.pairs.whole import Whole
from pipeline.records import OK, UnitRow
from pipeline.settings import PairSettings
from pipeline.shards import SPLITS, read_pairs
from pipeline.units import DamagedFile, UnitIds, UnitStore

log = logging.getLogger(__name__)
T = TypeVar("T")
EXAMPLES = 3  # rows shown for each reason of the funnel


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One scroll: its picture, what made it and how it scored."""

    generator: str
    seed: int
    score: float | None
    scores: dict[str, float]
    picture: Picture | None
    role: str = ""
    rank: int | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The scrolls of one prompt, best first, and the margin of its pair."""

    prompt: str
    strips: tuple[Strip, ...]
    margin: float | None = None
    split: str = ""

    @property
    def shape(self) -> float:
        """Width over height of the longest scroll; 4 where there is none."""
        return max((strip.picture.shape for strip in self.strips if strip.picture), default=4.0)


@dataclass
class Gallery:
    """Everything on the page."""

    title: str
    counts: dict[str, int]
    groups: list[Group]
    total: int
    funnel: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    drawings: list[str] = field(default_factory=list)


def read_gallery(where: str, limit: int, height: int, keep: Keep) -> Gallery:
    """The gallery of a run, also an unfinished one, or of an export; at most `limit` groups are shown.

    Their pictures go to `keep`, one at a time: the files as they were made, and reduced to `height`.
    """
    run = RunDir(where)
    if plan_names(run):
        return _of_run(run, limit, height, keep)
    return _of_export(where, limit, height, keep)


def render(gallery: Gallery, height: int) -> str:
    """The gallery as an HTML page that needs its pictures beside it and nothing else.

    `height` is that of the reduced pictures, in pixels.
    """
    loader = jinja2.PackageLoader("dataset_builder.report", "templates")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["short"] = charts.short
    generators = sorted({strip.generator for group in gallery.groups for strip in group.strips})
    margins = [group.margin for group in gallery.groups if group.margin is not None]
    colours = dict(
        zip(generators, charts.COLOURS * (len(generators) // len(charts.COLOURS) + 1), strict=False)
    )
    return page.get_template("gallery.html.jinja").render(
        gallery=gallery,
        generators=generators,
        colours=colours,
        most=max(margins, default=0.0),
        height=height,
        viewer=viewer(),
    )


def _of_run(run: RunDir, limit: int, height: int, keep: Keep) -> Gallery:
    """A part of the run is in memory at a time, and of the groups that are shown their scores and pairs."""
    manifest = run.manifest()
    config = settings_of(manifest)
    store = UnitStore(run, planned_hash(run), score_columns(manifest["config"]))
    done = store.done()
    shown = _shown(run, done, limit)
    if not shown:
        raise UserError(
            "this run has no images yet", run.base, f"`drspo status {run.base}` shows where it is."
        )
    settings = PairSettings(**{**config["pairs"], "weights": tuple(config["pairs"]["weights"])})
    if undecided := settings.validation_prompts > 0 and "export" not in run.phases():
        # Who is held out is decided when all are there.
        settings = replace(settings, validation_prompts=0, validation_fraction=0.0)
    votes = read_votes(run) if settings.source == "votes" else []
    seen: dict[str, dict[str, Any]] = {}
    roles: dict[str, dict[str, Any]] = {}

    def finish(scored: pl.DataFrame, pairs: pl.DataFrame, _: Whole) -> pl.DataFrame:
        own = scored.filter(pl.col("unit_id").is_in(shown))
        seen.update(zip(own["candidate_id"], own["scores"], strict=True))
        return pairs

    with (
        Scanned(store, (unit for units in _planned(run, done) for unit in units)) as scanned,
        Added(run, scanned.alive, store.scorers, settings) as added,
        Figures(Prompts.of(read_prompts_so_far(run)), added.scorers, run.spool) as counted,
    ):
        for pairs in decided_pairs(run, scanned, added, settings, votes, counted, finish):
            roles |= _roles(pairs.filter(pl.col("unit_id").is_in(shown)).to_dicts())
        figures = counted.all(lambda: added.join(scanned.alive()))
    groups = [
        _group(row, roles, seen, added.scorers[0], lambda data: kept(data, height, keep))
        for row in _whole_rows(store, shown)
        if row.candidates
    ]
    counts = figures["counts"]
    if undecided:
        counts = {name: count for name, count in counts.items() if not name.startswith("pairs_")}
        groups = [replace(group, split="") for group in groups]
    gallery = Gallery(public_name(run.base), counts, groups, counts["groups_ok"] + counted.counts["lost"])
    hosts = language_hosts(config)
    gallery.funnel = public(figures["funnel"], hosts=hosts)
    gallery.examples = _examples(read_prompts_so_far(run), hosts)
    gallery.drawings = _drawings(figures)
    return gallery


def _planned(run: RunDir, done: UnitIds) -> Iterator[list[str]]:
    """The units that are made, in the plan's order, a piece at a time."""
    for piece in read_plan_so_far(run):
        yield [unit for unit in piece["unit_id"].to_pylist() if unit in done]


def _shown(run: RunDir, done: UnitIds, limit: int) -> list[str]:
    """At most so many of the units that are made, evenly over all of them; 0 has no limit."""
    places = iter(spread(range(sum(len(units) for units in _planned(run, done))), limit))
    place, found, start = next(places, None), list[str](), 0
    for units in _planned(run, done):
        while place is not None and place < start + len(units):
            found.append(units[place - start])
            place = next(places, None)
        start += len(units)
    return found


def _whole_rows(store: UnitStore, units: Sequence[str]) -> Iterator[UnitRow]:
    """The rows of the units, without those of damaged ones, which are told."""
    for unit in units:
        try:
            yield from store.read_rows(unit)
        except DamagedFile as error:
            log.warning("%s is not shown: %s", error.name, error.why)


def spread(items: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` of the items, evenly over all of them."""
    if limit <= 0 or len(items) <= limit:
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def _roles(pairs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{prompt id: {"margin", "split", candidate id: role}}; of several pairs the widest counts."""
    found: dict[str, dict[str, Any]] = {}
    for pair in sorted(pairs, key=lambda pair: -pair["margin"]):
        roles = {pair["chosen_id"]: "chosen", pair["rejected_id"]: "rejected"}
        found.setdefault(pair["prompt_id"], {"margin": pair["margin"], "split": pair["split"], **roles})
    return found


def _group(
    row: UnitRow,
    roles: dict[str, dict[str, Any]],
    scores_of: dict[str, dict[str, Any]],
    scorer: str,
    picture: Callable[[bytes], Picture],
) -> Group:
    mine = roles.get(row.prompt_id, {})
    strips = []
    for candidate in sorted(row.candidates, key=lambda c: (c.rank is None, c.rank or 0)):
        found = scores_of.get(candidate.candidate_id, candidate.scores) or {}
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


def _of_export(where: str, limit: int, height: int, keep: Keep) -> Gallery:
    """Pairs alone, when there is no run around them."""
    rows = [row for split in SPLITS for row in _split(where, split)]
    if not rows:
        raise UserError("neither a run nor an export of pairs", where)
    wanted = set(spread([row["pair_id"] for row in rows], limit))
    groups = []
    for split in {row["split"] for row in rows}:
        groups += [_pair(row, height, keep) for row in read_pairs(where, split) if row["pair_id"] in wanted]
    counts = {"pairs": len(rows), **{f"pairs_{s}": sum(r["split"] == s for r in rows) for s in SPLITS}}
    figures = stats.summary(_series([row["margin"] for row in rows]))
    drawing = charts.distributions("margin of the pairs", {"pairs": figures.get("histogram", {})})
    return Gallery(public_name(where), counts, groups, len(rows), drawings=[drawing])


def _split(where: str, split: str) -> list[dict[str, Any]]:
    try:
        return list(read_pairs(where, split, columns=["pair_id", "margin", "split"]))
    except UserError as error:
        if "there are no" in error.what:
            return []
        raise


def _series(values: list[float]) -> Any:
    return pl.Series(values, dtype=pl.Float64)


def _pair(row: dict[str, Any], height: int, keep: Keep) -> Group:
    strips = [
        Strip(
            generator=charts.short(row[f"{side}_generator"]),
            seed=row[f"{side}_seed"],
            score=row[f"{side}_score"],
            scores={name: value for name, value in row[f"{side}_scores"].items() if value is not None},
            picture=kept(row[side]["bytes"], height, keep),
            role=side,
        )
        for side in ("chosen", "rejected")
    ]
    return Group(prompt=row["prompt"], strips=tuple(strips), margin=row["margin"], split=row["split"])
