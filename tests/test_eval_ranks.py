"""Ranks: the paper's own, and what they hang on."""

import numpy as np
import pytest

from eval.metrics.pickscore import shares
from eval.statistics.ranks import agreement, leave_one_out, ranks, standings

TABLES = (
    """
    MultiDiffusion 5.616 8 0.226 4 0.070 7 0.224 5 0.317 2 5.2
    SDXL 5.921 4 0.190 8 0.076 6 -0.318 8 0.310 4 6.0
    FLUX 4.994 10 0.175 10 0.027 9 -1.084 9 0.270 10 9.6
    MAD 6.032 1 0.195 7 0.105 1 0.100 6 0.317 2 3.4
    SyncDiffusion 5.744 6 0.197 6 0.068 8 -0.087 7 0.310 4 6.2
    ElasticDiffusion 5.422 9 0.186 9 0.025 10 -1.351 10 0.273 9 9.4
    FLUX+ESRGAN 5.922 3 0.235 2 0.097 2 0.236 4 0.306 8 3.8
    SD3.5+ESRGAN 5.759 5 0.221 5 0.092 4 0.258 3 0.309 6 4.6
    PixArt 6.016 2 0.236 1 0.092 5 0.397 1 0.308 7 3.2
    DRSPO 5.726 7 0.228 3 0.096 3 0.275 2 0.321 1 3.2
    """,
    """
    DRSPO 5.726 3 0.228 1 0.134 2 0.275 1 0.321 1 1.6
    without-control 6.009 1 0.136 4 0.166 1 0.171 3 0.320 2 2.2
    without-DPO 5.734 2 0.220 2 0.129 3 0.247 2 0.320 2 2.2
    with-IP-Adapter 5.564 4 0.216 3 0.086 4 -0.058 4 0.313 4 3.8
    """,
)
"""DRSPO's Tables 1 and 2 (sections 5.2, 5.4): aesthetic, HPS v2, PickScore, ImageReward and CLIP score, each
with the rank printed behind it, and the printed average rank."""


def paper_tables():
    """Both tables: [{method: (values [5], printed ranks [5], printed average)}]."""
    tables = []
    for text in TABLES:
        rows = [line.split() for line in text.strip().splitlines()]
        tables.append(
            {
                row[0]: ([float(x) for x in row[1:11:2]], [int(x) for x in row[2:11:2]], float(row[11]))
                for row in rows
            }
        )
    return tables


def test_the_papers_rule_gives_its_printed_ranks_but_the_one_that_is_a_slip():
    tables = paper_tables()
    assert [len(table) for table in tables] == [10, 4]
    slips = []
    for table in tables:
        values = np.array([row[0] for row in table.values()]).T
        printed = np.array([row[1] for row in table.values()]).T
        found = ranks(values, "paper")
        for metric, method in np.argwhere(found != printed):
            slips.append((list(table)[method], int(metric), printed[metric, method], found[metric, method]))
        averages = [row[2] for row in table.values()]
        assert printed.mean(axis=0) == pytest.approx(averages, abs=0.051)
    # PixArt's PickScore 0.092 equals SD 3.5's, which is printed fourth; PixArt is printed fifth.
    assert slips == [("PixArt", 2, 5, 4)]


def test_with_one_tie_rule_the_papers_first_table_has_another_winner():
    table = paper_tables()[0]
    average = ranks(np.array([row[0] for row in table.values()]).T, "paper").mean(axis=0)
    assert list(table)[int(average.argmin())] == "PixArt" and average.min() == pytest.approx(3.0)


def test_equal_methods_share_their_rank_and_the_chance_to_be_best():
    values = np.random.default_rng(0).normal(size=(3, 1, 20)).repeat(2, axis=1)
    assert [standing.rank.mean for standing in standings(values)] == [1.5, 1.5]
    assert [standing.best for standing in standings(values)] == [0.5, 0.5]


def test_a_method_that_is_better_everywhere_is_first_and_surely_best():
    values = np.random.default_rng(0).normal(size=(2, 1, 30)) + np.array([0.0, 1.0])[None, :, None]
    worse, better = standings(values)
    assert (better.rank.mean, better.rank.low, better.rank.high, better.best) == (1.0, 1.0, 1.0, 1.0)
    assert worse.best == 0.0


def test_a_close_race_has_a_wide_interval_and_no_certain_winner():
    values = np.random.default_rng(3).normal(size=(1, 2, 40))
    one, two = standings(values)
    assert one.rank.low == 1.0 and one.rank.high == 2.0 and 0.02 < one.best < 0.98
    assert one.best + two.best == pytest.approx(1.0)


def test_few_prompts_give_ranks_without_intervals_or_chances():
    only = standings(np.arange(8.0).reshape(1, 2, 4))[0]
    assert only.rank.mean == 2.0 and not only.rank.known and np.isnan(only.best)


def test_leaving_the_one_metric_out_that_decides_turns_the_order():
    means = np.array([[9.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    left = leave_one_out(means)
    assert left[0].tolist() == [3.0, 2.0, 1.0]
    assert left[1].tolist() == [2.0, 2.5, 1.5]
    assert np.isnan(leave_one_out(means[:1])).all()


def test_two_metrics_that_prefer_the_same_pictures_agree_whatever_their_units():
    rng = np.random.default_rng(0)
    taste, easy = rng.normal(size=(4, 25)), rng.normal(size=25) * 50
    found = agreement(np.stack([taste + easy, 7 * taste - easy, -taste, np.zeros((4, 25))]))
    assert found[0, 1] == pytest.approx(1.0) and found[0, 2] == pytest.approx(-1.0)
    assert np.isnan(found[0, 3])


def test_shares_sum_to_one_within_their_group_and_move_with_it():
    raw = np.array([20.0, 21.0, 19.0, np.nan])
    found = shares(raw)
    assert np.nansum(found) == pytest.approx(1.0) and np.isnan(found[3])
    assert shares(raw[:2])[0] > found[0]
    assert found[1] / found[0] == pytest.approx(np.e)
