"""Pairs come from scores alone, in a fixed order, with the promised margin."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drspo.errors import UserError
from pipeline.pairs.pairing import choose_pairs, combined_score, pairs_of
from pipeline.pairs.ranking import rank_groups
from pipeline.pairs.whole import EqualWins, Whole, split_of
from pipeline.settings import PairSettings

SCORERS = ("aesthetic", "repetition")


def frame(groups: list[list[tuple[str, float, float]]]) -> pl.DataFrame:
    """Candidates from (generator, aesthetic, repetition) per prompt."""
    rows = [
        {
            "unit_id": f"u{p}", "prompt_id": f"p{p}", "prompt": f"hill {p}", "candidate_id": f"p{p}c{i}",
            "generator": generator, "seed": i, "height": 8, "width": 32,
            "scores": {"aesthetic": a, "repetition": r},
        }
        for p, group in enumerate(groups)
        for i, (generator, a, r) in enumerate(group)
    ]  # fmt: skip
    text = dict.fromkeys(("unit_id", "prompt_id", "prompt", "candidate_id", "generator"), pl.String)
    numbers = dict.fromkeys(("seed", "height", "width"), pl.Int64)
    return pl.DataFrame(
        rows, schema={**text, **numbers, "scores": pl.Struct(dict.fromkeys(SCORERS, pl.Float64))}
    )


scores = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.5, -1.0]) | st.floats(-10, 10)
candidate = st.tuples(st.sampled_from(["mad", "sdxl", "multidiffusion"]), scores, scores)
candidates = st.lists(st.lists(candidate, min_size=1, max_size=6), max_size=5).map(frame)
options = st.builds(
    PairSettings,
    method=st.sampled_from(["best_worst", "all", "adjacent", "top_k_bottom_k", "pareto"]),
    most_per_prompt=st.integers(0, 3),
    k=st.integers(1, 4),
    min_margin=st.sampled_from([0.0, 0.1, 1.0]),
    weights=st.sampled_from([(), ("aesthetic=1", "repetition=-0.5")]),
    normalise=st.sampled_from(["raw", "zscore"]),
    balance=st.sampled_from(["none", "same_generator", "equal_wins"]),
    validation_fraction=st.sampled_from([0.0, 0.3]),
)


@settings(max_examples=60, deadline=None)
@given(candidates, options, st.randoms())
def test_what_holds_for_every_choice_of_pairs(table: pl.DataFrame, asked: PairSettings, rng: Any) -> None:
    pairs = choose_pairs(table, asked, SCORERS)
    score = dict(zip(table["candidate_id"], combined_score(table, asked, SCORERS)))
    owner = dict(zip(table["candidate_id"], table["prompt_id"]))
    maker = dict(zip(table["candidate_id"], table["generator"]))
    for row in pairs.iter_rows(named=True):
        a, b = row["chosen_id"], row["rejected_id"]
        assert owner[a] == owner[b] == row["prompt_id"]
        assert row["margin"] == score[a] - score[b] > 0 and row["margin"] >= asked.min_margin
        assert (row["chosen_generator"], row["rejected_generator"]) == (maker[a], maker[b])
        assert asked.balance != "same_generator" or maker[a] == maker[b]
        assert row["split"] == split_of(row["prompt_id"], asked.validation_fraction)
    assert pairs["pair_id"].n_unique() == pairs.height
    if asked.most_per_prompt and pairs.height:
        assert max(Counter(pairs["prompt_id"]).values()) <= asked.most_per_prompt
    if asked.balance == "equal_wins" and pairs.height:
        assert len(set(Counter(pairs["chosen_generator"]).values())) == 1
    order = list(range(table.height))
    rng.shuffle(order)
    assert choose_pairs(table[order], asked, SCORERS).equals(pairs)


@settings(max_examples=40, deadline=None)
@given(candidates, options, st.integers(0, 2))
def test_groups_that_come_in_parts_are_paired_as_all_at_once(
    table: pl.DataFrame, asked: PairSettings, held_out: int
) -> None:
    prompts = table["prompt_id"].unique(maintain_order=True).to_list()
    asked = replace(asked, validation_prompts=min(held_out, max(0, len(prompts) - 1)))
    parts = [
        table.filter(pl.col("prompt_id").is_in(prompts[at : at + 2])) for at in range(0, len(prompts), 2)
    ]
    whole = Whole.of(lambda: parts, asked, SCORERS)
    pairs = [pairs_of(part, whole, SCORERS) for part in parts]
    if asked.balance == "equal_wins":
        pairs = [EqualWins(lambda: pairs)(part) for part in pairs]
    expected = choose_pairs(table, asked, SCORERS)
    assert pl.concat([expected.clear(), *pairs]).equals(expected)
    groups = [rank_groups(part, asked, SCORERS, whole) for part in parts]
    expected = rank_groups(table, asked, SCORERS)
    assert pl.concat([expected.clear(), *groups]).equals(expected)


@settings(max_examples=40, deadline=None)
@given(candidates)
def test_methods_contain_each_other(table: pl.DataFrame) -> None:
    found = {
        name: set(choose_pairs(table, PairSettings(method=name, k=1), SCORERS)["pair_id"])  # type: ignore[arg-type]
        for name in ("best_worst", "all", "adjacent", "top_k_bottom_k")
    }
    assert found["best_worst"] == found["top_k_bottom_k"] <= found["all"]
    assert found["adjacent"] <= found["all"]


SIX = frame([[("mad", 6, 0), ("mad", 5, 0), ("sdxl", 4, 0), ("sdxl", 3, 0), ("md", 2, 0), ("md", 1, 0)]])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (PairSettings(), [(6, 1)]),
        (PairSettings(method="adjacent"), [(6, 5), (5, 4), (4, 3), (3, 2), (2, 1)]),
        (PairSettings(method="top_k_bottom_k", k=2), [(6, 2), (6, 1), (5, 2), (5, 1)]),
        (PairSettings(method="all", min_margin=4), [(6, 2), (6, 1), (5, 1)]),
        (PairSettings(balance="same_generator"), [(2, 1), (4, 3), (6, 5)]),
        (PairSettings(method="adjacent", balance="equal_wins"), [(2, 1), (4, 3), (6, 5)]),
        (PairSettings(min_margin=6), []),
    ],
)
def test_a_group_of_six_is_paired_as_asked(asked: PairSettings, expected: list[tuple[int, int]]) -> None:
    pairs = choose_pairs(SIX, asked, SCORERS)
    found = list(zip(pairs["chosen_score"], pairs["rejected_score"]))
    if asked.balance == "equal_wins":
        # Each generator wins as often as the rarest; which of its equal margins stays is the id's choice.
        assert Counter(pairs["chosen_generator"]) == {"mad": 1, "sdxl": 1, "md": 1}
    else:
        assert sorted(found, reverse=asked.balance == "none") == expected


def test_a_repetition_penalty_turns_a_pair_around() -> None:
    table = frame([[("md", 6.0, 0.95), ("mad", 5.5, 0.60)]])
    plain = choose_pairs(table, PairSettings(), SCORERS)
    fair = choose_pairs(table, PairSettings(weights=("aesthetic=1", "repetition=-4")), SCORERS)
    assert plain["chosen_generator"].to_list() == ["md"]
    assert fair["chosen_generator"].to_list() == ["mad"]
    assert fair["margin"].to_list() == pytest.approx([5.5 - 2.4 - (6 - 3.8)])


def test_ties_are_never_paired() -> None:
    assert choose_pairs(frame([[("a", 1, 0), ("b", 1, 0)]]), PairSettings(method="all"), SCORERS).is_empty()


def test_all_pairs_of_a_prompt_share_a_split_of_about_the_asked_size() -> None:
    table = frame([[("a", 2, 0), ("b", 1, 0), ("c", 0, 0)]] * 400)
    pairs = choose_pairs(table, PairSettings(method="all", validation_fraction=0.25), SCORERS)
    assert pairs.group_by("prompt_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert 0.18 < (pairs["split"] == "validation").mean() < 0.32


@pytest.mark.parametrize(
    "wrong",
    [
        PairSettings(weights=("aestetic=1",)),
        PairSettings(weights=("aesthetic=much",)),
        PairSettings(k=0),
        PairSettings(min_margin=-1),
        PairSettings(validation_fraction=1.0),
    ],
)
def test_senseless_settings_are_refused(wrong: PairSettings) -> None:
    with pytest.raises(UserError):
        choose_pairs(SIX, wrong, SCORERS)


def test_huge_scores_are_standardised_and_a_sum_beyond_all_numbers_is_refused() -> None:
    table = frame([[("a", 1.6e308, 1e308), ("b", -1.6e308, -1e308)], [("a", 1.5e308, 0), ("b", 1e307, 0)]])
    weights = ("aesthetic=1", "repetition=1")
    pairs = choose_pairs(table, PairSettings(weights=weights, normalise="zscore"), SCORERS)
    assert pairs.height == 2 and pairs["margin"].is_finite().all()
    with pytest.raises(UserError, match="no finite number"):
        choose_pairs(table, PairSettings(weights=weights), SCORERS)


def test_scores_further_apart_than_numbers_go_are_refused() -> None:
    table = frame([[("a", 1.6e308, 0), ("b", -1.6e308, 0)]])
    with pytest.raises(UserError, match="further apart"):
        choose_pairs(table, PairSettings(), SCORERS)


def test_scores_below_all_normal_numbers_are_standardised_too() -> None:
    table = frame([[("a", 5e-324, 0.0), ("b", 1.5e-323, 0.0), ("c", 0.0, 0.0)]])
    asked = PairSettings(weights=("aesthetic=1",), normalise="zscore")
    pairs = choose_pairs(table, asked, SCORERS)
    assert pairs["chosen_generator"].to_list() == ["b"] and pairs["margin"].is_finite().all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_standardised_scores_do_not_depend_on_their_unit(values: list[float]) -> None:
    plain = frame([[("a", value, 0.0) for value in values]])
    large = frame([[("a", value * 2.0**900, 0.0) for value in values]])
    asked = PairSettings(weights=("aesthetic=1",), normalise="zscore")
    assert combined_score(plain, asked, SCORERS).equals(combined_score(large, asked, SCORERS))


@settings(max_examples=60, deadline=None)
@given(candidates, st.sampled_from(["raw", "zscore"]), st.floats(0.1, 10))
def test_pareto_pairs_are_those_on_which_no_score_disagrees(
    table: pl.DataFrame, normalise: str, weight: float
) -> None:
    weights = ("aesthetic=1", f"repetition=-{weight}")
    asked = PairSettings(method="pareto", weights=weights, normalise=normalise)  # type: ignore[arg-type]
    pairs = choose_pairs(table, asked, SCORERS)
    found = set(zip(pairs["chosen_id"], pairs["rejected_id"], strict=True))
    expected = set()
    for a in table.iter_rows(named=True):
        for b in table.filter(prompt_id=a["prompt_id"]).iter_rows(named=True):
            gains = [
                a["scores"]["aesthetic"] - b["scores"]["aesthetic"],
                b["scores"]["repetition"] - a["scores"]["repetition"],
            ]
            if min(gains) >= 0 and max(gains) > 1e-6:  # less is lost in the rounding of the weighted sum
                expected.add((a["candidate_id"], b["candidate_id"]))
    assert expected <= found
    scores = {row["candidate_id"]: row["scores"] for row in table.iter_rows(named=True)}
    for chosen, rejected in found:
        assert scores[chosen]["aesthetic"] >= scores[rejected]["aesthetic"]
        assert scores[chosen]["repetition"] <= scores[rejected]["repetition"]


def test_pareto_does_not_depend_on_the_sizes_of_the_weights_but_on_their_signs() -> None:
    table = frame([[("a", 5, 1), ("b", 4, 0), ("c", 4, 2), ("d", 3, 3)]])
    found = [
        set(choose_pairs(table, PairSettings(method="pareto", weights=weights), SCORERS)["pair_id"])
        for weights in (("aesthetic=1", "repetition=-1"), ("aesthetic=0.01", "repetition=-9"))
    ]
    assert found[0] == found[1] and len(found[0]) == 5
    alone = choose_pairs(table, PairSettings(method="pareto", weights=("repetition=0",)), SCORERS)
    assert alone.is_empty()


def test_at_most_so_many_pairs_of_a_prompt_those_of_largest_margin() -> None:
    pairs = choose_pairs(SIX, PairSettings(method="all", most_per_prompt=3), SCORERS)
    assert sorted(pairs["margin"], reverse=True) == [5, 4, 4]


def test_exactly_so_many_prompts_are_held_out_and_the_same_ones_for_every_method() -> None:
    table = frame([[("a", 2, 0), ("b", 1, 0), ("c", 0, 0)]] * 50)
    held = [
        set(choose_pairs(table, asked, SCORERS).filter(split="validation")["prompt_id"])
        for asked in (
            PairSettings(validation_prompts=7),
            PairSettings(method="all", validation_prompts=7, validation_fraction=0.9),
        )
    ]
    assert len(held[0]) == 7 and held[0] == held[1]
    groups = rank_groups(table, PairSettings(validation_prompts=7), SCORERS)
    assert set(groups.filter(split="validation")["prompt_id"]) == held[0]
    with pytest.raises(UserError, match="50 prompts cannot be held out of 50"):
        choose_pairs(table, PairSettings(validation_prompts=50), SCORERS)


def test_equal_scores_of_a_group_share_their_rank() -> None:
    table = frame([[("a", 1, 0), ("b", 3, 0), ("c", 3, 0), ("d", 2, 0)], [("a", 1, 0)]])
    (group,) = rank_groups(table, PairSettings(), SCORERS).to_dicts()
    assert (group["score"], group["ranks"]) == ([3, 3, 2, 1], [1, 1, 3, 4])
    assert group["candidate_ids"] == ["p0c1", "p0c2", "p0c3", "p0c0"]
