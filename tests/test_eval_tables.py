"""Tables refuse unequal sets, average seeds within prompts, and know which way is up."""

import numpy as np
import pytest

from drspo.errors import UserError
from eval.tables import Record, average_ranks, markdown, table


def record(method, prompt, seed, value, scorer="aesthetic", higher=True):
    return Record(
        method=method, prompt=prompt, seed=seed, scorer=scorer, unit="u", view="windows", checkpoint="c",
        checkpoint_hash="h", higher_is_better=higher, value=value,
    )  # fmt: skip


def measured(shift, scorer="aesthetic", higher=True):
    rng = np.random.default_rng(0)
    base = rng.normal(5, 1, (30, 2))
    return [
        record(method, f"p{p}", s, float(base[p, s] + (shift if method == "ours" else 0)), scorer, higher)
        for method in ("base", "ours")
        for p in range(30)
        for s in range(2)
    ]


def test_a_constant_gain_is_found_exactly_and_wins_every_prompt():
    ours = next(row for row in table(measured(0.1), "base") if row.method == "ours")
    assert ours.difference.mean == pytest.approx(0.1)
    assert ours.difference.low == pytest.approx(0.1)
    assert ours.wins.mean == 1.0 and ours.mean.n == 30


def test_less_of_a_bad_thing_wins():
    ours = next(row for row in table(measured(-0.1, "repetition", False), "base") if row.method == "ours")
    assert ours.wins.mean == 1.0
    assert average_ranks(measured(-0.1, "repetition", False))["ours"].mean == 1.0


def test_equal_methods_share_their_rank():
    assert average_ranks(measured(0.0))["base"].mean == 1.5


def test_a_method_that_lacks_an_image_is_not_compared():
    with pytest.raises(UserError, match="lacks 1 of 60"):
        table(measured(0.1)[:-1], "base")


def test_an_absent_baseline_is_named():
    with pytest.raises(UserError, match="not among the methods"):
        table(measured(0.1), "mad")


def test_the_printed_table_names_view_and_checkpoint():
    records = measured(0.1)
    text = markdown(table(records, "base"), average_ranks(records, draws=50), records, "base")
    assert "view windows" in text and "`h`" in text and "| ours | 5." in text
