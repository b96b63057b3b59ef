"""Intervals that cover, pairs that must match."""

import numpy as np
import pytest

from eval.statistics import bootstrap_ci, mean_by_prompt, paired_difference, sign_flip_p, win_rate


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = bootstrap_ci(rng.normal(1.0, 2.0, 60), draws=500, seed=trial)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_sees_a_difference_that_prompts_would_hide():
    rng = np.random.default_rng(1)
    base = {f"p{n}": float(value) for n, value in enumerate(rng.normal(0, 10, 50))}
    better = {key: value + 0.2 + 0.1 * rng.normal() for key, value in base.items()}
    interval = paired_difference(better, base)
    assert interval.low > 0 and interval.n == 50


def test_different_prompts_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_seeds_are_averaged_within_their_prompt():
    assert mean_by_prompt(["a", "a", "b"], np.array([1.0, 3.0, 5.0])) == {"a": 2.0, "b": 5.0}


def test_ties_count_half():
    interval = win_rate(np.array([1.0, 0.0, 2.0, 2.0]), np.array([0.0, 1.0, 2.0, 2.0]))
    assert interval.mean == 0.5 and interval.low < 0.5 < interval.high


def test_the_sign_flip_test_is_small_only_for_a_real_difference():
    rng = np.random.default_rng(2)
    assert sign_flip_p(rng.normal(1.0, 1.0, 40)) < 0.001
    assert sign_flip_p(rng.normal(0.0, 1.0, 40)) > 0.05
