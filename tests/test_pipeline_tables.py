"""Tables that are written and read piece by piece are those that are written and read at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline import tables
from pipeline.spill import Spill
from pipeline.tables import parquet, read_pieces, regrouped, store_pieces, store_table

SCHEMA = pa.schema(
    [("id", pa.string()), ("n", pa.int64()), ("list", pa.list_(pa.struct([("x", pa.string())])))]
)


def table(rows: int) -> pa.Table:
    values = [{"id": f"{n:032x}", "n": n, "list": [{"x": str(n % 7)}] * (n % 3)} for n in range(rows)]
    return pa.Table.from_pylist(values, schema=SCHEMA)


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 12))
def test_rows_are_regrouped_without_loss(sizes: list[int], rows: int) -> None:
    whole = table(sum(sizes))
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    groups = list(regrouped((whole.slice(start, n) for start, n in zip(starts, sizes)), rows))
    assert all(group.num_rows == rows for group in groups[:-1])
    assert pa.concat_tables([SCHEMA.empty_table(), *groups]).equals(whole)


def test_no_more_than_two_groups_are_in_memory_however_many_pass() -> None:
    def pieces() -> Iterator[pa.Table]:
        for _ in range(200):
            yield pa.table({"n": pa.array(range(1000))})

    before, most = pa.total_allocated_bytes(), 0
    for group in regrouped(regrouped(pieces(), 10_000), 10_000):
        size = group.nbytes
        del group
        most = max(most, pa.total_allocated_bytes() - before)
    assert size == 80_000 and most <= 2 * size


@pytest.mark.parametrize("rows", [0, 1, 200, 1000])
def test_pieces_give_the_bytes_of_the_whole_and_are_read_back(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS", 200)
    monkeypatch.setattr(tables, "_READ", 64)
    storage, whole = Storage(tmp_path), table(rows)
    pieces = [whole.slice(start, 37) for start in range(0, rows, 37)]
    assert store_pieces(storage, "a.parquet", SCHEMA, pieces)
    assert storage.read("a.parquet") == parquet(whole)
    assert not store_pieces(storage, "a.parquet", SCHEMA, []), "the first one stands"
    store_table(storage, "b.parquet", whole)
    for name in ("a.parquet", "b.parquet"):
        read = list(read_pieces(storage, name, SCHEMA))
        assert pa.concat_tables([SCHEMA.empty_table(), *read]).equals(whole)
        assert all(piece.num_rows <= 64 for piece in read)
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "b.parquet"]


def test_a_damaged_or_foreign_table_is_refused_piece_by_piece_too(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("a.parquet", parquet(table(10))[:-20])
    with pytest.raises(UserError, match=r"a\.parquet is not a whole Parquet file"):
        list(read_pieces(storage, "a.parquet", SCHEMA))
    storage.write("a.parquet", parquet(pa.table({"id": ["x"]})))
    with pytest.raises(UserError, match="other columns"):
        list(read_pieces(storage, "a.parquet", SCHEMA))


def test_what_was_spilled_comes_back_in_order_as_often_as_asked_and_leaves_no_file(tmp_path: Path) -> None:
    rows = pl.DataFrame(pl.from_arrow(table(100)))
    with Spill(Storage(tmp_path), rows=7) as spill:
        assert list(spill) == [] and spill.whole().is_empty()
        for start in range(0, 90, 5):
            spill.add(rows[start : start + 5])
        assert spill.height == 90 and spill.whole().equals(rows[:90])
        spill.add(rows[90:])
        assert pl.concat(spill).equals(rows) and pl.concat(spill).equals(rows)
        assert os.listdir(tmp_path) == []
