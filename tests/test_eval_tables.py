"""Tables compare what can be compared, know which way is up, and say what is missing."""

import json

import numpy as np
import pytest

from drspo.errors import UserError
from eval.benchmark.records import Record
from eval.report.comparison import Comparison
from eval.report.markdown import markdown


def record(method, prompt, seed, value, scorer="aesthetic", higher=True, **more):
    return Record(
        method=method, prompt=prompt, seed=seed, scorer=scorer, unit="u", view="windows", checkpoint="c",
        checkpoint_hash="h", higher_is_better=higher, value=value, **more,
    )  # fmt: skip


def measured(shift, scorer="aesthetic", higher=True, noise=0.0, prompts=30, **more):
    rng = np.random.default_rng(0)
    base, own = rng.normal(5, 1, (prompts, 2)), noise * rng.normal(size=(prompts, 2))
    return [
        record(
            method,
            f"p{p:02}",
            s,
            float(base[p, s] + (shift + own[p, s] if method == "ours" else 0)),
            scorer,
            higher,
            **more,
        )  # fmt: skip
        for method in ("base", "ours")
        for p in range(prompts)
        for s in range(2)
    ]


def ours(records, **more):
    return next(row for row in Comparison(records, "base", **more).rows if row.method == "ours")


def test_a_constant_gain_is_found_exactly_and_wins_every_prompt():
    row = ours(measured(0.1))
    assert row.difference.mean == pytest.approx(0.1) and row.difference.low == pytest.approx(0.1)
    assert row.wins.mean == 1.0 and row.mean.n == 30 and row.verdict == "+ clearly better"


@pytest.mark.parametrize(("shift", "word"), [(-0.1, "+ clearly better"), (0.1, "- clearly worse")])
def test_less_of_a_bad_thing_is_better_in_sign_and_word(shift, word):
    row = ours(measured(shift, "surplus", False))
    assert row.verdict == word
    assert row.wins.mean == (1.0 if shift < 0 else 0.0)
    rank = Comparison(measured(shift, "surplus", False), "base").standings["ours"].rank.mean
    assert rank == (1.0 if shift < 0 else 2.0)


def test_clear_means_after_holm_over_the_whole_table():
    close = measured(0.26, noise=1.0)
    alone = ours(close)
    many = [r for n in range(12) for r in measured(0.0, f"other{n}", noise=1.0)]
    among = ours(close + many)
    assert alone.p < 0.05 and alone.verdict == "+ clearly better"
    assert among.p == pytest.approx(min(1.0, 13 * alone.p)) and among.verdict == "+ better, not clear"


def test_equal_methods_share_their_rank():
    found = Comparison(measured(0.0), "base")
    assert found.standings["base"].rank.mean == 1.5 and ours(measured(0.0)).verdict == "= equal"


def test_a_missing_number_takes_its_picture_from_the_comparison_and_is_said():
    records = measured(0.1)
    records[-1] = record("ours", "p29", 1, float("nan"), error="the picture was torn")
    records[-3] = record("ours", "p28", 1, float("inf"))
    found = Comparison(records, "base")
    row = next(row for row in found.rows if row.method == "ours")
    assert row.difference.mean == pytest.approx(0.1) and row.wins.mean == 1.0
    assert found.pictures("aesthetic") == (58, 60)
    text = markdown(found)
    assert "58 of 60" in text and "ours: 2 pictures without a number (the picture was torn)" in text


def test_a_method_that_has_no_number_at_all_does_not_empty_the_table():
    records = measured(0.1) + [
        record("lost", f"p{p:02}", s, float("nan"), error="no memory") for p in range(30) for s in range(2)
    ]
    found = Comparison(records, "base")
    assert {row.method for row in found.rows} == {"base", "ours"}
    assert "lost: 60 pictures without a number (no memory)" in markdown(found)
    assert found.standings == {} and "No picture has a number" in markdown(found)


def test_four_prompts_give_means_and_the_words_too_few():
    row = ours(measured(1.0, prompts=4))
    assert row.verdict == "too few" and not row.difference.known and "no interval" in markdown(
        Comparison(measured(1.0, prompts=4), "base")
    )  # fmt: skip


def test_seeds_become_one_number_as_the_metric_declares():
    rows = [record("base", "p", 0, 1.0, aggregate="max"), record("base", "p", 1, 5.0, aggregate="max")]
    assert Comparison(rows, "base").rows[0].mean.mean == 5.0
    worst = [record("base", "p", s, v, higher=False, aggregate="max") for s, v in enumerate((1.0, 5.0))]
    assert Comparison(worst, "base").array().tolist() == [[[-5.0]]]


def test_a_training_label_is_marked_and_left_out_of_a_second_rank():
    records = measured(1.0) + measured(-1.0, "clip")
    found = Comparison(records, "base", trained=("aesthetic",))
    assert found.standings["ours"].rank.mean == 1.5
    assert found.untrained_standings["ours"].rank.mean == 2.0
    assert found.leave_one_out["aesthetic"]["ours"] == 2.0 and found.leave_one_out["clip"]["ours"] == 1.0
    assert "aesthetic (was a training label)" in markdown(found) and "without aesthetic" in markdown(found)


def test_a_scorer_that_stands_aside_is_shown_and_counted_in_no_rank():
    found = Comparison(measured(1.0) + measured(-1.0, "count"), "base", aside=("count",))
    assert found.standings["ours"].rank.mean == 1.0 and found.standings["ours"].best == 1.0
    assert found.leave_one_out == {} and found.paper_ranks["ours"] == 1.0
    assert {row.scorer for row in found.rows} == {"aesthetic", "count"}
    assert "count (aside: no rank counts it)" in markdown(found)


def test_the_share_of_picks_names_its_group():
    found = Comparison(measured(1.0, "pickscore"), "base")
    assert found.pick_shares()["ours"] == pytest.approx(np.e / (1 + np.e))
    assert "within the group base, ours" in markdown(found)
    assert Comparison(measured(1.0), "base").pick_shares() == {}


def test_an_absent_baseline_is_named():
    with pytest.raises(UserError, match="not among the methods"):
        Comparison(measured(0.1), "mad")


def test_the_printed_table_names_what_the_number_depends_on():
    found = Comparison(measured(0.1, revision="0123456789abcdef"), "base")
    text = markdown(found)
    assert "view windows" in text and "c@0123456789ab `h`" in text and "| ours | 5." in text
    assert json.loads(json.dumps(found.as_json()))["rows"][1]["verdict"] == "+ clearly better"
