"""Which candidates become (chosen, rejected): pure functions on a table of scores.

DRSPO section 5.1.1 pairs the best with the worst of each group of six. Its Fig. 7 shows that the
aesthetic score favours repeated objects; a negative weight on a count of repeated objects answers that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

from drspo.errors import UserError
from drspo.ranges import check_ranges
from pipeline.pairs.votes import Vote, tell_what_scores_decide, vote_sides
from pipeline.pairs.whole import EqualWins, Whole, score_weights
from pipeline.records import SCHEMA_VERSION, pair_id
from pipeline.settings import PairSettings

# What a candidate brings into each side of its pairs.
SIDE = ("candidate_id", "generator", "seed", "score", "scores")
COLUMNS = ("id", *SIDE[1:])


def choose_pairs(
    candidates: pl.DataFrame, settings: PairSettings, scorers: Sequence[str], votes: Sequence[Vote] = ()
) -> pl.DataFrame:
    """The pairs, in a fixed order, without images.

    `candidates` has one row per scored candidate: unit_id, prompt_id, prompt, candidate_id, generator,
    seed, height, width and a struct `scores`. Ties are never paired; every pair's margin is positive and at
    least `settings.min_margin`. `votes` are looked at where the settings say that votes decide.
    """
    if settings.source == "votes":
        tell_what_scores_decide(settings)
    pairs = pairs_of(candidates, Whole.of(lambda: [candidates], settings, scorers), scorers, votes)
    return EqualWins(lambda: [pairs])(pairs) if settings.balance == "equal_wins" else pairs


def pairs_of(
    part: pl.DataFrame, whole: Whole, scorers: Sequence[str], votes: Sequence[Vote] = ()
) -> pl.DataFrame:
    """The pairs of a part of the candidates, as `choose_pairs` has them before wins are made equal."""
    settings = whole.settings
    check_ranges(settings)
    if settings.source == "votes":
        pairs = vote_sides(part, votes, SIDE)
        if settings.balance == "same_generator":
            pairs = pairs.filter(pl.col("chosen_generator") == pl.col("rejected_generator"))
    else:
        scored = part.with_columns(score=combined_score(part, settings, scorers, whole))
        pairs = _sides(ranked(scored, settings), settings)
        if settings.method == "pareto":
            pairs = pairs.filter(dominates(score_weights(settings, scorers)))
    if not pairs["margin"].is_finite().all():
        hint = "Standardise the scores (--pairs.normalise zscore), or weigh them less."
        raise UserError("two images' scores are further apart than numbers go", "pairs.weights", hint)
    pairs = pairs.filter((pl.col("margin") > 0) & (pl.col("margin") >= settings.min_margin))
    pairs = pairs.with_columns(_pair_ids(pairs), whole.splits(pairs["prompt_id"]))
    if settings.most_per_prompt:
        pairs = largest(pairs, "prompt_id", settings.most_per_prompt)
    order = ["unit_id", "prompt_id", "rank", "rank_rejected", "pair_id"]
    pairs = pairs.with_columns(schema_version=pl.lit(SCHEMA_VERSION, pl.Int32)).sort(order)
    return pairs.select(
        "unit_id",
        "pair_id",
        "prompt_id",
        "prompt",
        *(f"{side}_{name}" for name in COLUMNS for side in ("chosen", "rejected")),
        "margin",
        "height",
        "width",
        "split",
        "schema_version",
    )


def combined_score(
    candidates: pl.DataFrame, settings: PairSettings, scorers: Sequence[str], whole: Whole | None = None
) -> pl.Series:
    """The score that decides: a weighted sum of scorers, each standardised over the run when asked.

    Without `whole` the candidates are the run.
    """
    whole = whole or Whole.of(lambda: [candidates], settings, scorers)
    total = pl.Series("score", [0.0] * candidates.height, dtype=pl.Float64)
    for name, weight in score_weights(settings, scorers).items():
        column = candidates["scores"].struct.field(name)
        total = total + weight * (whole.standards[name](column) if name in whole.standards else column)
    if not total.is_finite().all():
        raise UserError(
            "the weighted sum of the scores is no finite number for some images",
            "pairs.weights",
            "Standardise them (--pairs.normalise zscore), or weigh them less.",
        )
    return total.alias("score")


def deciding_score(
    candidates: pl.DataFrame, settings: PairSettings, scorers: Sequence[str], whole: Whole
) -> pl.Series:
    """The score by which pairs are made; where votes make them, the first scorer's."""
    if settings.source == "votes":
        return candidates["scores"].struct.field(scorers[0]).alias("score")
    return combined_score(candidates, settings, scorers, whole)


def decided_by(settings: PairSettings, scorers: Sequence[str]) -> str:
    """What `deciding_score` is, in words."""
    if settings.source == "votes" or not settings.weights:
        return scorers[0]
    summed = " + ".join(f"{weight:g} {name}" for name, weight in score_weights(settings, scorers).items())
    told = summed.replace("+ -", "- ")
    return f"{told}, each standardised" if settings.normalise == "zscore" else told


def ranked(scored: pl.DataFrame, settings: PairSettings) -> pl.DataFrame:
    """The candidates with `rank` (1 is best, ties by candidate id) and `group_size` in their group."""
    group = ["prompt_id", "generator"] if settings.balance == "same_generator" else ["prompt_id"]
    ordered = scored.sort([*group, "score", "candidate_id"], descending=[False] * len(group) + [True, False])
    return ordered.with_columns(
        rank=pl.int_range(1, pl.len() + 1).over(group), group_size=pl.len().cast(pl.Int64).over(group)
    )


def dominates(weights: Mapping[str, float]) -> pl.Expr:
    """Whether the chosen side is no worse by any weighted score and better by one; signs say which way."""
    gains = [math.copysign(1.0, weight) * _gain(name) for name, weight in weights.items() if weight]
    if not gains:
        return pl.lit(False)
    return pl.all_horizontal(gain >= 0 for gain in gains) & pl.any_horizontal(gain > 0 for gain in gains)


def _gain(scorer: str) -> pl.Expr:
    chosen, rejected = (pl.col(f"{side}_scores").struct.field(scorer) for side in ("chosen", "rejected"))
    return chosen - rejected


def largest(pairs: pl.DataFrame, group: str, most: int) -> pl.DataFrame:
    """At most so many pairs of each group, those of the largest margin; ties go by the pair's id."""
    ordered = pairs.sort(["margin", "pair_id"], descending=[True, False])
    return ordered.filter(pl.int_range(pl.len()).over(group) < most)


def _sides(candidates: pl.DataFrame, settings: PairSettings) -> pl.DataFrame:
    """Every (chosen, rejected) that the method asks for."""
    group = ["prompt_id", "generator"] if settings.balance == "same_generator" else ["prompt_id"]
    best, worst = _chosen_and_rejected(settings)
    # The sides share the grouping key, so the generator is carried twice under other names.
    chosen = candidates.filter(best).with_columns(
        *(pl.col(name).alias(_side("chosen", name)) for name in SIDE)
    )
    rejected = candidates.filter(worst).select(
        *group, pl.col("rank").alias("rank_rejected"), *(pl.col(n).alias(_side("rejected", n)) for n in SIDE)
    )
    pairs = chosen.join(rejected, on=group, how="inner").filter(_allowed(settings))
    return pairs.with_columns(margin=pl.col("chosen_score") - pl.col("rejected_score"))


def _side(side: str, name: str) -> str:
    return f"{side}_{'id' if name == 'candidate_id' else name}"


def _chosen_and_rejected(settings: PairSettings) -> tuple[pl.Expr, pl.Expr]:
    k = {"best_worst": 1, "top_k_bottom_k": settings.k}.get(settings.method)
    if k is None:
        return pl.lit(True), pl.lit(True)
    return pl.col("rank") <= k, pl.col("rank") > pl.col("group_size") - k


def _allowed(settings: PairSettings) -> pl.Expr:
    if settings.method == "adjacent":
        return pl.col("rank_rejected") == pl.col("rank") + 1
    return pl.col("rank") < pl.col("rank_rejected")


def _pair_ids(pairs: pl.DataFrame) -> pl.Series:
    ids = [pair_id(a, b) for a, b in pairs.select("chosen_id", "rejected_id").iter_rows()]
    return pl.Series("pair_id", ids, dtype=pl.String)
