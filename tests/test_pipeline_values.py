"""What is sorted, summed, picked and matched on disk is what it would be in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.report.stats import summary
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from pipeline import values
from pipeline.pairs import heaps, whole
from pipeline.pairs.heaps import by_unit, matched, put_together
from pipeline.pairs.whole import nth
from pipeline.spill import Spill
from pipeline.values import Values


@pytest.mark.parametrize("count", [1, 2, 700, 5003])
def test_figures_of_numbers_on_disk_are_numpys_to_the_bit(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("RUN", 512), ("_LEAF", 256), ("_LEAST", 16)):
        monkeypatch.setattr(values, name, size)
    rng = np.random.default_rng(count)
    numbers = rng.normal(size=count) * 10.0 ** rng.integers(-9, 9, count)
    numbers[:: max(1, count // 5)] = 1.0
    expected = np.sort(numbers)
    with Values() as found:
        for start in range(0, count, 77):
            found.add(numbers[start : start + 77])
        assert found.size == count and np.array_equal(np.concatenate([*found.blocks()]), expected)
        assert found.mean() == expected.mean() and found.deviation() == expected.std()
        for share in (0.0, 0.05, 0.5, 0.75, 0.951, 1.0):
            assert found.quantile(share) == np.quantile(expected, share)
        assert [found.at(place) for place in (0, count // 2)] == [expected[0], expected[count // 2]]
        assert found.above(1.0) == (numbers > 1.0).sum()
        with pytest.raises(ValueError, match="before any is read"):
            found.add(numbers)


def test_figures_of_huge_numbers_are_numbers() -> None:
    numbers = np.array([-1.5e308, -1e308, 1e308, 1.5e308])
    with Values() as found:
        found.add(numbers)
        assert found.mean() == 0.0
        assert found.deviation() == pytest.approx(np.std(numbers / 2**540) * 2.0**540)
        assert found.quantile(0.25) == pytest.approx(-1.125e308) and found.quantile(0.5) == 0.0
        figures = summary(found)
    assert np.isfinite(figures["histogram"]["edges"]).all() and sum(figures["histogram"]["counts"]) == 4


@given(st.sets(st.text("abc", max_size=8), min_size=1), st.data())
def test_the_nth_text_is_found_in_passes(texts: set[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(texts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "_FEW", 1)
        patch.setattr(whole, "_LETTERS", 1)
        assert nth(lambda: texts, place) == sorted(texts)[place - 1]


def test_rows_are_put_in_the_order_of_units_and_matched_whatever_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heaps, "ROWS_PER_PART", 5)
    monkeypatch.setattr(heaps, "_WAITING", 2)
    storage, units = Storage(tmp_path), [content_hash("unit", number) for number in range(60)]
    rows = pl.DataFrame({"unit_id": units * 2, "n": range(120)})
    known = pl.DataFrame({"unit_id": [*units[20:], content_hash("other")], "m": range(41)})
    with Spill(storage, 7) as spill, Spill(storage, 7) as others:
        spill.add(rows)
        others.add(known)
        parts = [*put_together(by_unit(storage, spill))]
        pairs = [*matched(storage, spill, others, "unit_id")]
    assert (
        pl.concat(parts)
        .sort("unit_id", maintain_order=True)
        .equals(rows.sort("unit_id", maintain_order=True))
    )
    borders = [(str(part["unit_id"].min()), str(part["unit_id"].max())) for part in parts]
    assert all(before[1] < after[0] for before, after in zip(borders, borders[1:]))
    assert all(part.height <= 5 for part in parts) and len(parts) > 20
    joined = [left.join(right, on="unit_id") for left, right in pairs if right.height]
    assert pl.concat(joined).sort("n").equals(rows.join(known, on="unit_id").sort("n"))
    assert sum(left.height for left, _ in pairs) == 120 and not [*tmp_path.iterdir()]
