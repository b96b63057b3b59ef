"""Near duplicates: found when there, exact when claimed, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ideas import dedup
from pipeline.ideas.dedup import KeptTexts, jaccard, near_duplicates

WORDS = (
    "lake hill castle river snow dune forest bridge harbour cloud meadow temple gate pine sail moon".split()
)


def shingles(text):
    folded = " ".join(text.casefold().split()).ljust(5)
    return {folded[i : i + 5] for i in range(len(folded) - 4)}


def similarity(left, right):
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


def random_texts(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 14)) + f" {number}" for number in range(count)]


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
@settings(max_examples=200, deadline=None)
def test_the_resemblance_is_the_jaccard_similarity_of_the_shingle_sets(left, right):
    assert jaccard(dedup.shingles(left), dedup.shingles(right)) == pytest.approx(similarity(left, right))


def test_planted_near_duplicates_are_found_and_nothing_else():
    texts = random_texts(3000, 0)
    rng = np.random.default_rng(1)
    planted = {}
    for original in rng.choice(3000, 300, replace=False).tolist():
        words = texts[original].split()
        words[3] = "tower"
        planted[len(texts)] = original
        texts.append(" ".join(words))
    threshold = 0.7
    found = near_duplicates(texts, threshold)
    assert all(similarity(texts[i], texts[j]) >= threshold and j < i for i, j in found.items())
    due = [i for i, j in planted.items() if similarity(texts[i], texts[j]) >= 0.8]
    assert len(due) > 100 and sum(i in found for i in due) >= 0.98 * len(due)


def test_case_and_spaces_do_not_hide_a_duplicate():
    assert near_duplicates(["A calm lake at dawn", "a  CALM lake at dawn"], 1.0) == {1: 0}


def test_scripts_without_spaces_work_alike():
    texts = [
        "雪に覆われた山々の下にある静かな湖と赤い鳥居の風景",
        "雪に覆われた山々の下にある静かな湖と赤い鳥居の景色",
    ]
    assert near_duplicates(texts, 0.7) == {1: 0} and near_duplicates(texts, 0.99) == {}


def test_a_chain_is_judged_against_kept_texts_only():
    base = random_texts(1, 5)[0]
    words = base.split()
    chain = [" ".join(words[:-k] + ["tower"] * k) for k in range(1, 8)]
    found = near_duplicates([base, *chain], 0.75)
    kept = [text for i, text in enumerate([base, *chain]) if i not in found]
    assert len(kept) > 1 and all(j not in found for j in found.values())


def test_hundreds_of_equal_texts_leave_one():
    texts = [text for text in random_texts(20, 3) for _ in range(200)]
    found = near_duplicates(texts, 0.9)
    assert len(texts) - len(found) == 20


def test_empty_and_short_texts_and_empty_lists_are_handled():
    assert near_duplicates([], 0.8) == {}
    assert near_duplicates(["", "a", "", "b"], 0.9) == {2: 0}


def test_the_result_does_not_depend_on_how_texts_are_chunked():
    texts = random_texts(9000, 2)
    texts += [text + " x" for text in texts[:50]]
    found = near_duplicates(texts, 0.8)
    assert len(found) >= 50 and found == near_duplicates(texts, 0.8)
    assert {i for i in found if i >= 9000} == set(range(9000, 9050))


def test_a_threshold_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["a"], 1.5)


@pytest.mark.parametrize("sizes", [(1200,), (7,) * 172, (600, 599, 1), (1, 1000, 199)])
def test_blocks_one_after_the_other_give_what_all_at_once_give(sizes):
    texts = random_texts(800, 3)
    rng = np.random.default_rng(4)
    for original in rng.choice(800, 400).tolist():
        words = texts[original].split()
        words[int(rng.integers(14))] = "tower"
        texts.append(" ".join(words))
    order = rng.permutation(len(texts)).tolist()
    texts = [texts[place] for place in order]
    whole = near_duplicates(texts, 0.7)
    assert len(whole) > 200
    kept, found, start = KeptTexts(0.7), {}, 0
    for size in sizes:
        found |= kept.add(texts[start : start + size])
        start += size
    assert found == whole


def test_a_restart_needs_nothing_but_the_texts_that_were_kept():
    texts = random_texts(300, 5)
    twins = [" ".join([*text.split()[:-2], "tower", "x"]) for text in texts[::10]]
    first, again = KeptTexts(0.7), KeptTexts(0.7)
    assert not first.add(texts)
    again.remember(texts)
    assert first.add(twins) == again.add(twins) and len(again.add(texts)) == 300


def test_many_equal_beginnings_are_compared_with_a_bounded_number():
    texts = [f"a calm lake at dawn with a red boat and a long jetty {number:06d}" for number in range(500)]
    blocks = KeptTexts(1.0)
    found = [blocks.add(texts[start : start + 100]) for start in range(0, 500, 100)]
    assert found == [{}] * 5 and near_duplicates(texts, 1.0) == {}
