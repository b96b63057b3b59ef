"""What all unit files of a run say, on disk: the table of scores, and the candidates in parts by unit id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import polars as pl
import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.pairs.scores import alive, no_candidates, scan_tables
from pipeline.spill import Spill
from pipeline.tables import write_pieces
from pipeline.units import DamagedFile, UnitStore

ROWS_PER_PART = 1 << 14
_WAITING = 512  # rows of a heap in memory before they are written
_DIGITS = "0123456789abcdef"
_DEEPEST = 8  # digits of a unit's id that are looked at: enough for billions


class Scanned:
    """A run's candidates, one part of whole units in memory at a time; the parts are in the units' order.

    Parts and scores lie in files without names, gone when this is closed.
    """

    def __init__(self, store: UnitStore, units: Iterable[str]) -> None:
        """Reads the facts of the units, in the order given."""
        self.store = store
        self.damaged: list[DamagedFile] = []
        with ExitStack() as opened:
            self.parts = opened.enter_context(Spill(store.storage, 1))
            self.scores = opened.enter_context(store.storage.spool())
            """One row per candidate, in the order of the units: the bytes of scores.parquet."""
            with Spill(store.storage) as rows:
                schema = no_candidates(store.scorers).to_arrow().schema
                tables = _copied(scan_tables(store, units, self.damaged.append), rows)
                # Arrow's own tables, not frames: columns of those go back to the machine together only.
                write_pieces(self.scores, schema, (table.cast(schema) for table in tables))
                for part in _whole(by_unit(store.storage, rows)):
                    self.parts.add(part)
            self._opened = opened.pop_all()

    def __enter__(self) -> Scanned:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """The candidates of each part."""
        return iter(self.parts)

    def alive(self) -> Iterator[pl.DataFrame]:
        """Those of each part that can be paired."""
        return (alive(part) for part in self)


def by_unit(storage: Storage, rows: Spill, digit: int = 0) -> Iterator[pl.DataFrame]:
    """The rows in the order of their units' ids, in pieces of whole units; a unit's rows stay in their order.

    What is too much for one piece goes on sixteen heaps by the next digit of the id, and so does each heap.
    """
    if rows.height <= ROWS_PER_PART or digit == _DEEPEST:
        if rows.height:
            yield rows.whole()
        return
    with ExitStack() as opened:
        heaps = {each: opened.enter_context(Spill(storage, _WAITING)) for each in _DIGITS}
        for piece in rows:
            sorted_out = piece.with_columns(_digit=pl.col("unit_id").str.slice(digit, 1))
            for (each,), own in sorted_out.group_by("_digit", maintain_order=True):
                heaps[str(each)].add(own.drop("_digit"))
        for heap in heaps.values():
            with heap:
                yield from by_unit(storage, heap, digit + 1)


def _copied(tables: Iterable[pa.Table], copy: Spill) -> Iterator[pa.Table]:
    """The tables, of which there is a copy then."""
    for table in tables:
        copy.add(pl.DataFrame(pl.from_arrow(table)))
        yield table


def _whole(pieces: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Small pieces put together, as far as a part goes."""
    waiting: list[pl.DataFrame] = []
    count = 0
    for piece in pieces:
        if waiting and count + piece.height > ROWS_PER_PART:
            yield pl.concat(waiting)
            waiting, count = [], 0
        waiting.append(piece)
        count += piece.height
    if waiting:
        yield pl.concat(waiting)
