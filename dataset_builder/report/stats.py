"""`stats.json`: what the data set is made of, in numbers that its card and its gallery show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.ideas.prompts import reason_kind
from pipeline.pairs.scores import Scan
from pipeline.records import DEAD, OK

STATS_NAME = "stats.json"
BINS = 24


def collect(
    prompts: pa.Table, scan: Scan, alive: pl.DataFrame, pairs: pl.DataFrame, scorers: Sequence[str]
) -> dict[str, Any]:
    """All figures; a function of the tables alone, so that the same run gives the same file."""
    return {
        "counts": counts(prompts, scan, pairs),
        "funnel": funnel(prompts, scan, pairs),
        "margins": summary(pairs["margin"]),
        "scores": {name: score_figures(alive, name) for name in scorers},
        "win_rates": win_rates(alive, scorers[0]),
        "pairs_by_generator": _pairs_by_generator(pairs),
    }


def write(storage: Storage, figures: dict[str, Any]) -> None:
    """Store the figures as stats.json."""
    storage.write(STATS_NAME, (json.dumps(figures, indent=2, sort_keys=True) + "\n").encode())


def counts(prompts: pa.Table, scan: Scan, pairs: pl.DataFrame) -> dict[str, int]:
    """Prompts, units, images and pairs, by what became of them."""
    rows = scan.candidates
    by_split = dict(pairs.group_by("split").len().iter_rows())
    return {
        "prompts": prompts.num_rows,
        "prompts_accepted": prompts["status"].to_pylist().count(OK),
        "units": rows["unit_id"].n_unique(),
        "groups_ok": rows.filter(pl.col("status") == OK)["prompt_id"].n_unique(),
        "groups_dead": rows.filter(pl.col("status") == DEAD)["prompt_id"].n_unique(),
        "images": int((rows["image_bytes"] > 0).sum()),
        "images_scored": int(rows["scored"].sum()),
        "image_bytes": int(rows["image_bytes"].sum() or 0),
        "pairs": pairs.height,
        **{f"pairs_{split}": int(by_split.get(split, 0)) for split in ("train", "validation")},
    }


def funnel(prompts: pa.Table, scan: Scan, pairs: pl.DataFrame) -> list[dict[str, Any]]:
    """What came in and what left at each step: [{step, count, lost: {reason: count}}]."""
    rows = scan.candidates
    dead = rows.filter(pl.col("status") == DEAD).unique("prompt_id")
    failed = rows.filter((pl.col("status") == OK) & ~pl.col("scored"))
    ok = rows.filter(pl.col("status") == OK)
    paired = pairs["prompt_id"].n_unique()
    groups = ok["prompt_id"].n_unique()
    return [
        {"step": "prompts", "count": prompts.num_rows, "lost": prompt_losses(prompts)},
        {
            "step": "accepted",
            "count": prompts["status"].to_pylist().count(OK),
            "lost": _kinds(dead["group_error"].to_list()),
        },
        {"step": "groups", "count": groups, "lost": {"no pair within the margin": groups - paired}},
        {
            "step": "candidates",
            "count": ok["candidate_id"].n_unique(),
            "lost": _kinds(failed["error"].to_list()),
        },
        {"step": "pairs", "count": pairs.height, "lost": {}},
    ]


def prompt_losses(prompts: pa.Table) -> dict[str, int]:
    """{kind of reason: count} over the prompts that were dropped or died."""
    rows = zip(prompts["status"].to_pylist(), prompts["reason"].to_pylist(), strict=True)
    return dict(sorted(Counter(reason_kind(reason) for status, reason in rows if status != OK).items()))


def summary(values: pl.Series) -> dict[str, Any]:
    """Count, mean, quantiles and a histogram of the values."""
    data = np.asarray(values.drop_nulls().sort().to_list(), dtype=float)
    if not data.size:
        return {"count": 0}
    edges = np.linspace(data[0], data[-1] if data[-1] > data[0] else data[0] + 1, BINS + 1)
    quantiles = {f"q{int(100 * q):02d}": float(np.quantile(data, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return {
        "count": int(data.size),
        "mean": float(data.mean()),
        "std": float(data.std()),
        "min": float(data[0]),
        "max": float(data[-1]),
        **quantiles,
        "histogram": {"edges": edges.tolist(), "counts": np.histogram(data, edges)[0].tolist()},
    }


def score_figures(candidates: pl.DataFrame, scorer: str) -> dict[str, Any]:
    """The distribution of one scorer, over all candidates and per generator."""
    values = candidates.with_columns(value=pl.col("scores").struct.field(scorer))
    generators = sorted(values["generator"].unique().to_list())
    per = {name: summary(values.filter(pl.col("generator") == name)["value"]) for name in generators}
    return {**summary(values["value"]), "by_generator": per}


def win_rates(candidates: pl.DataFrame, scorer: str) -> dict[str, dict[str, float | None]]:
    """rates[a][b]: share of prompts' image pairs in which `a` scores above `b`; a tie is half a win."""
    values = candidates.select("prompt_id", "generator", value=pl.col("scores").struct.field(scorer))
    pairs = values.join(values, on="prompt_id", suffix="_other").filter(
        pl.col("generator") != pl.col("generator_other")
    )
    win = (pl.col("value") > pl.col("value_other")).cast(pl.Float64)
    tie = (pl.col("value") == pl.col("value_other")).cast(pl.Float64)
    table = pairs.group_by("generator", "generator_other").agg(rate=(win + tie / 2).mean())
    found = {(a, b): rate for a, b, rate in table.iter_rows()}
    names = sorted(values["generator"].unique().to_list())
    return {a: {b: found.get((a, b)) for b in names if b != a} for a in names}


def _pairs_by_generator(pairs: pl.DataFrame) -> dict[str, dict[str, int]]:
    """{generator: {chosen: n, rejected: n}}."""
    found = {}
    for name in sorted({*pairs["chosen_generator"].to_list(), *pairs["rejected_generator"].to_list()}):
        sides = ("chosen", "rejected")
        found[name] = {side: int((pairs[f"{side}_generator"] == name).sum()) for side in sides}
    return found


def _kinds(errors: Sequence[str | None]) -> dict[str, int]:
    """Errors counted by their kind, which is what stands before the details."""
    kinds = Counter((error or "unknown").partition(": ")[0][:120] for error in errors)
    return dict(sorted(kinds.items()))
