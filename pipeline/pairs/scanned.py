"""What all unit files of a run say, on disk: the table of scores, and the candidates in parts by unit id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl
import pyarrow as pa

from pipeline.pairs.scores import alive, no_candidates, scan_pieces
from pipeline.spill import Spill
from pipeline.tables import ROWS, regrouped, write_pieces
from pipeline.units import DamagedFile, UnitStore

UNITS_PER_PART, MOST_PARTS = 4096, 256
_WAITING = 512  # rows of a part in memory before they are written


class Scanned:
    """A run's candidates, one part of whole units in memory at a time; the parts are in the units' order.

    Parts and scores lie in files without names, gone when this is closed.
    """

    def __init__(self, store: UnitStore, units: Iterable[str], count: int) -> None:
        """Reads the facts of `count` units, in the order given."""
        self.store = store
        self.damaged: list[DamagedFile] = []
        self.parts = [Spill(store.storage, _WAITING) for _ in range(_parts(count))]
        self.scores = store.storage.spool()
        """One row per candidate, in the order of the units: the bytes of scores.parquet."""
        schema = no_candidates(store.scorers).to_arrow().schema
        pieces = (piece.to_arrow() for piece in scan_pieces(store, units, self.damaged.append))
        write_pieces(self.scores, schema, self._parted(regrouped(pieces, ROWS)))

    def __enter__(self) -> Scanned:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*(part.file for part in self.parts), self.scores):
            each.close()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """The candidates of each part."""
        return (part.whole() for part in self.parts if part.height)

    def alive(self) -> Iterator[pl.DataFrame]:
        """Those of each part that can be paired."""
        return (alive(part) for part in self)

    def _parted(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The pieces, whose rows were added to their parts."""
        for piece in pieces:
            frame = pl.DataFrame(pl.from_arrow(piece))
            if len(self.parts) == 1:
                self.parts[0].add(frame)
            else:
                number = pl.col("unit_id").str.slice(0, 2).str.to_integer(base=16)
                parted = frame.with_columns(_part=number * len(self.parts) // 256)
                for (part,), rows in parted.group_by("_part", maintain_order=True):
                    self.parts[int(part)].add(rows.drop("_part"))  # type: ignore[call-overload]
            yield piece


def _parts(units: int) -> int:
    """How many parts: a power of two, so that each is a range of first bytes."""
    return min(MOST_PARTS, 1 << max(0, (units - 1) // UNITS_PER_PART).bit_length())
