"""What all unit files of a run say, on disk: the table of scores, and the candidates in parts by unit id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import polars as pl
import pyarrow as pa

from pipeline.pairs.heaps import by_unit, put_together
from pipeline.pairs.scores import alive, no_candidates, scan_tables
from pipeline.spill import Spill
from pipeline.tables import write_pieces
from pipeline.units import DamagedFile, UnitStore


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
                for part in put_together(by_unit(store.storage, rows)):
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


def _copied(tables: Iterable[pa.Table], copy: Spill) -> Iterator[pa.Table]:
    """The tables, of which there is a copy then."""
    for table in tables:
        copy.add(pl.DataFrame(pl.from_arrow(table)))
        yield table
