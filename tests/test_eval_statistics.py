"""Intervals that cover, pairs that must match, numbers that are missing."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.command import main
from eval.statistics import coverage
from eval.statistics.intervals import (
    holm,
    mean_by_prompt,
    mean_interval,
    paired_difference,
    verdict,
    win_rate,
)


@pytest.mark.parametrize("n", coverage.SIZES)
@pytest.mark.parametrize("kind", coverage.KINDS)
def test_paired_differences_are_covered_as_promised(kind, n):
    assert 0.93 <= coverage.difference_coverage(kind, n, runs=6000) <= 0.98


def test_the_percentile_bootstrap_breaks_the_promise_that_students_t_keeps():
    assert coverage.bootstrap_coverage("normal", 8) < 0.91


def test_the_command_prints_every_coverage_and_the_one_reached_for_skewed_means(capsys):
    assert main(["--coverage", "--runs", "2000"]) == 0
    out = capsys.readouterr().out
    means = out.split("| mean of skewed scores |")[1]
    skewed = next(line for line in means.splitlines() if line.startswith("| lognormal, sigma 1 |"))
    assert float(re.findall(r"([\d.]+) %", skewed)[0]) < 90 and "(no promise)" in out
    assert "keep the promise" in out


def test_pairing_sees_a_difference_that_prompts_would_hide():
    rng = np.random.default_rng(1)
    base = rng.normal(0, 10, 50)
    found = paired_difference(base + 0.2 + 0.1 * rng.normal(size=50), base)
    assert found.interval.low > 0 and found.interval.n == 50 and found.p < 1e-6


@pytest.mark.parametrize("n", range(1, 5))
def test_below_five_prompts_there_is_a_mean_and_no_interval(n):
    values = np.arange(n) + 1.0
    found = paired_difference(values, np.zeros(n))
    assert not mean_interval(values).known and not win_rate(values, np.zeros(n)).known
    assert found.interval.mean == values.mean() and np.isnan(found.p)
    assert "no interval" in str(found.interval)
    assert mean_interval(np.arange(5.0)).known


def test_a_missing_number_is_missing_and_never_a_loss():
    ours, theirs = np.array([1.0, 2, 3, 4, 5, np.nan]), np.array([0.0, 1, 2, 3, np.nan, 9])
    assert win_rate(ours, theirs).mean == 1.0 and win_rate(ours, theirs).n == 4
    assert paired_difference(ours, theirs).interval.mean == 1.0
    assert mean_interval(ours).mean == 3.0
    with pytest.raises(ValueError, match="both sides"):
        win_rate(np.array([np.nan]), np.array([1.0]))


def test_seeds_become_one_number_as_the_metric_says():
    prompts, values = ["a", "a", "a", "b"], np.array([1.0, 2.0, 6.0, np.nan])
    assert mean_by_prompt(prompts, values)["a"] == 3.0 and np.isnan(mean_by_prompt(prompts, values)["b"])
    found = [mean_by_prompt(prompts, values, how)["a"] for how in ("median", "max", "min")]
    assert found == [2.0, 6.0, 1.0]


def test_ties_count_half():
    interval = win_rate(np.array([1.0, 0.0, 2.0, 2.0, 2.0]), np.array([0.0, 1.0, 2.0, 2.0, 2.0]))
    assert interval.mean == 0.5 and interval.low < 0.5 < interval.high


def test_holm_agrees_with_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([np.nan, 0.02])[0]) and holm([np.nan, 0.02])[1] == pytest.approx(0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_makes_a_difference_clearer_and_keeps_their_order(p):
    adjusted = holm(p)
    assert np.all(adjusted >= np.array(p)) and np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


@pytest.mark.parametrize(
    ("gain", "p", "said"),
    [
        (0.1, 0.01, "+ clearly better"),
        (-0.1, 0.01, "- clearly worse"),
        (0.1, 0.2, "+ better, not clear"),
        (-0.1, 0.2, "- worse, not clear"),
        (0.0, 1.0, "= equal"),
        (3.0, float("nan"), "too few"),
    ],
)
def test_better_and_worse_differ_in_sign_and_word(gain, p, said):
    assert verdict(gain, p) == said
