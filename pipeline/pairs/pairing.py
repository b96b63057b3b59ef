"""Which candidates become (chosen, rejected): pure functions on a table of scores.

DRSPO section 5.1.1 pairs the best with the worst of each group of six. Its Fig. 7 shows that the
aesthetic score favours repeated objects; a negative weight on a count of repeated objects answers that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

from drspo.errors import UserError, did_you_mean
from drspo.hashing import seed_from
from drspo.ranges import check_ranges
from pipeline.pairs.votes import Vote, tell_what_scores_decide, vote_sides
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
    check_ranges(settings)
    if settings.source == "votes":
        tell_what_scores_decide(settings)
        pairs = vote_sides(candidates, votes, SIDE)
        if settings.balance == "same_generator":
            pairs = pairs.filter(pl.col("chosen_generator") == pl.col("rejected_generator"))
    else:
        scored = candidates.with_columns(score=combined_score(candidates, settings, scorers))
        pairs = _sides(ranked(scored, settings), settings)
        if settings.method == "pareto":
            pairs = pairs.filter(dominates(score_weights(settings, scorers)))
    pairs = pairs.filter((pl.col("margin") > 0) & (pl.col("margin") >= settings.min_margin))
    splits = split_prompts(candidates["prompt_id"], settings)
    pairs = pairs.with_columns(_pair_ids(pairs), _splits(pairs, splits))
    if settings.most_per_prompt:
        pairs = largest(pairs, "prompt_id", settings.most_per_prompt)
    if settings.balance == "equal_wins":
        pairs = equal_wins(pairs)
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


def combined_score(candidates: pl.DataFrame, settings: PairSettings, scorers: Sequence[str]) -> pl.Series:
    """The score that decides: a weighted sum of scorers, each standardised over the run when asked."""
    total = pl.Series("score", [0.0] * candidates.height, dtype=pl.Float64)
    for name, weight in score_weights(settings, scorers).items():
        column = candidates["scores"].struct.field(name)
        total = total + weight * (_standardised(column) if settings.normalise == "zscore" else column)
    if not total.is_finite().all():
        raise UserError(
            "the weighted sum of the scores is no finite number for some images",
            "pairs.weights",
            "Standardise them (--pairs.normalise zscore), or weigh them less.",
        )
    return total.alias("score")


def score_weights(settings: PairSettings, scorers: Sequence[str]) -> dict[str, float]:
    """{scorer: weight}; the first scorer alone when no weights are set. UserError for unknown scorers."""
    if not settings.weights:
        return {scorers[0]: 1.0}
    weights: dict[str, float] = {}
    for entry in settings.weights:
        name, _, value = entry.partition("=")
        if name not in scorers:
            raise UserError(
                f"pairs are weighted by {name!r}, which this run does not score",
                "pairs.weights",
                did_you_mean(name, scorers),
            )
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = math.nan
        if not math.isfinite(weights[name]):
            raise UserError(f"{entry!r} is not scorer=number", "pairs.weights")
    return weights


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


def equal_wins(pairs: pl.DataFrame) -> pl.DataFrame:
    """Of each generator as many wins as the one with the fewest has, those of the largest margin."""
    if pairs.is_empty():
        return pairs
    least = pairs.group_by("chosen_generator").len()["len"].min()
    return largest(pairs, "chosen_generator", least)


def largest(pairs: pl.DataFrame, group: str, most: int) -> pl.DataFrame:
    """At most so many pairs of each group, those of the largest margin; ties go by the pair's id."""
    ordered = pairs.sort(["margin", "pair_id"], descending=[True, False])
    return ordered.filter(pl.int_range(pl.len()).over(group) < most)


def split_prompts(prompts: pl.Series, settings: PairSettings) -> dict[str, str]:
    """{prompt id: split}: by share, or those held out that are first in the order of their ids' hashes.

    Raises UserError when more are to be held out than there are.
    """
    unique = sorted(set(prompts))
    most = settings.validation_prompts
    if not most:
        return {prompt: split_of(prompt, settings.validation_fraction) for prompt in unique}
    if unique and most >= len(unique):
        raise UserError(
            f"{most} prompts cannot be held out of {len(unique)}",
            "pairs.validation_prompts",
            "The same command with fewer continues; no image is made again.",
        )
    held = set(sorted(unique, key=lambda prompt: (seed_from("split", prompt), prompt))[:most])
    return {prompt: "validation" if prompt in held else "train" for prompt in unique}


def split_of(prompt_id: str, validation_fraction: float) -> str:
    """The split of a prompt and so of all its pairs: a function of the prompt alone."""
    share = seed_from("split", prompt_id) / 2**31
    return "validation" if share < validation_fraction else "train"


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


def _standardised(column: pl.Series) -> pl.Series:
    """(x - mean) / deviation; zero where all are equal. Exact sums, so that no thread order matters.

    All is done in units of a power of two near the largest value, which changes no digit and keeps the
    squares of huge scores finite.
    """
    values = column.to_list()
    unit = math.ldexp(1.0, min(math.frexp(max(map(abs, values), default=0.0))[1], 1023))
    values = [value / unit for value in values]
    mean = math.fsum(values) / max(len(values), 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(len(values), 1))
    return (column / unit - mean) / deviation if deviation > 0 else column * 0.0


def _pair_ids(pairs: pl.DataFrame) -> pl.Series:
    ids = [pair_id(a, b) for a, b in pairs.select("chosen_id", "rejected_id").iter_rows()]
    return pl.Series("pair_id", ids, dtype=pl.String)


def _splits(pairs: pl.DataFrame, splits: Mapping[str, str]) -> pl.Series:
    return pl.Series("split", [splits[prompt] for prompt in pairs["prompt_id"]], dtype=pl.String)
