"""Whole groups, best image first: what listwise preference losses learn from. Pure functions on a table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipeline.pairs.pairing import combined_score
from pipeline.pairs.whole import Whole
from pipeline.records import SCHEMA_VERSION
from pipeline.settings import PairSettings

_LISTS = {
    "candidate_ids": "candidate_id",
    "generators": "generator",
    "seeds": "seed",
    "score": "score",
    "scores": "scores",
    "ranks": "rank",
}


def rank_groups(
    candidates: pl.DataFrame, settings: PairSettings, scorers: Sequence[str], whole: Whole | None = None
) -> pl.DataFrame:
    """One row per prompt with at least two scored images, in the order of the pairs, without images.

    `candidates` is as for `choose_pairs`. The lists of a row run from the best image to the worst by the
    score that pairs them; equal scores have equal `ranks` (1, 1, 3) and stand in the order of their ids.
    Without `whole` the candidates are the run, else a part of it.
    """
    whole = whole or Whole.of(lambda: [candidates], settings, scorers)
    scored = candidates.with_columns(score=combined_score(candidates, settings, scorers, whole))
    rank = pl.col("score").rank("min", descending=True).over("prompt_id").cast(pl.Int32)
    ordered = scored.with_columns(rank=rank).sort("unit_id", "prompt_id", "rank", "candidate_id")
    group = ("unit_id", "prompt_id", "prompt", "height", "width")
    groups = ordered.group_by(group, maintain_order=True).agg(
        **{name: pl.col(column) for name, column in _LISTS.items()}
    )
    groups = groups.filter(pl.col("ranks").list.len() > 1)
    return groups.with_columns(
        split=whole.splits(groups["prompt_id"]),
        schema_version=pl.lit(SCHEMA_VERSION, pl.Int32),
    )
