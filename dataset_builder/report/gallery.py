"""What the gallery shows, read from a run folder or an export: groups of scrolls, figures, the funnel."""

from __future__ import annotations

from typing import Any

import jinja2
import polars as pl

from dataset_builder.report import charts, stats
from dataset_builder.report.gallery_of_run import of_prompts, of_run
from dataset_builder.report.groups import Gallery, Group, Strip, spread
from dataset_builder.report.pictures import Keep, kept
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.leaving import public_name
from drspo.web import viewer
from pipeline.candidates.plan import read_plan_so_far
from pipeline.ideas.finished import prompt_names
from pipeline.shards import SPLITS, read_pairs


def read_gallery(where: str, limit: int, height: int, keep: Keep) -> Gallery:
    """The gallery of a run, also an unfinished one, or of an export; at most `limit` groups are shown.

    Their pictures go to `keep`, one at a time: the files as they were made, and reduced to `height`.
    """
    run = RunDir(where)
    if any(piece.num_rows for piece in read_plan_so_far(run)):
        return of_run(run, limit, height, keep)
    if prompt_names(run):
        return of_prompts(run)
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
