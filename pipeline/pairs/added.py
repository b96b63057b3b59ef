"""A run's added scores, joined to its candidates part by part from disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import polars as pl

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.pairs.columns import FOLDER, column_names, one_each, read_about, score_pieces
from pipeline.pairs.heaps import by_unit, matched
from pipeline.pairs.whole import Parts, score_weights
from pipeline.settings import PairSettings
from pipeline.spill import Spill

log = logging.getLogger(__name__)

_KINDS = {"unit_id": pl.String, "candidate_id": pl.String, "score": pl.Float64}


class Added:
    """The run's added scores, in files without names by unit, gone when this is closed.

    A column that does not cover every candidate is left out; it, or a candidate without its number, cannot be
    paired by it: UserError for the column, the candidate leaves.
    """

    def __init__(
        self, storage: Storage, parts: Parts, scorers: Sequence[str], settings: PairSettings
    ) -> None:
        names = column_names(storage)
        self.weights = score_weights(settings, (*scorers, *names))
        self.columns: dict[str, Spill] = {}
        with ExitStack() as opened:
            for name in names:
                rows = opened.enter_context(Spill(storage))
                if _covers(storage, name, *_aligned(storage, name, parts, rows), name in self.weights):
                    self.columns[name] = rows
            self._opened = opened.pop_all()
        self.scorers = (*scorers, *self.columns)
        """The names of all scores."""

    def __enter__(self) -> Added:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def join(self, parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The parts with all their scores, without what cannot be paired by them.

        Parts hold whole units, in the order of their ids; one pass at a time.
        """
        readers = {name: _Reader(rows) for name, rows in self.columns.items()}
        for part in parts:
            joined = part
            for name, reader in readers.items():
                joined = with_column(joined, name, reader(part))
            yield _known(joined, self.columns.keys() & self.weights.keys())


class _Reader:
    """Reads a column's rows along with the parts."""

    def __init__(self, rows: Spill) -> None:
        self.coming = iter(rows)
        self.ahead = pl.DataFrame(schema=_KINDS)

    def __call__(self, part: pl.DataFrame) -> pl.DataFrame:
        """The rows of the part's units."""
        if part.is_empty():
            return self.ahead.clear()
        last, pieces = str(part["unit_id"].max()), [self.ahead]
        while pieces[-1].is_empty() or str(pieces[-1]["unit_id"].max()) <= last:
            piece = next(self.coming, None)
            if piece is None:
                break
            pieces.append(piece)
        rows = pl.concat(pieces)
        self.ahead = rows.filter(pl.col("unit_id") > last)
        return rows.filter(pl.col("unit_id") <= last)


def with_column(candidates: pl.DataFrame, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The candidates, whose struct `scores` has the column's numbers too; null where there is none."""
    added = rows.select("candidate_id", pl.col("score").alias("_added"))
    joined = candidates.join(added, on="candidate_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("scores").struct.with_fields(pl.col("_added").alias(name))).drop(
        "_added"
    )


def _aligned(storage: Storage, name: str, parts: Parts, to: Spill) -> tuple[int, int]:
    """Put a column's rows in the order of units; gives how many candidates have none, and of how many."""
    lacking = 0
    with Spill(storage) as wanted, Spill(storage) as stored, Spill(storage) as found:
        for part in parts():
            wanted.add(part.select("unit_id", "candidate_id"))
        for rows in score_pieces(storage, name):
            stored.add(rows.select("candidate_id", "score"))
        for own, rows in matched(storage, wanted, stored, "candidate_id"):
            known = own.join(one_each(rows), on="candidate_id", how="inner") if rows.height else own.clear()
            lacking += own.height - known.height
            if known.height:
                found.add(known.select(*_KINDS))
        for part in by_unit(storage, found):
            to.add(part)
        return lacking, wanted.height


def _covers(storage: Storage, name: str, lacking: int, count: int, weighted: bool) -> bool:
    if lacking and weighted:
        raise UserError(
            f"{lacking} of {count} images have not been scored by {name!r} yet",
            storage.url(f"{FOLDER}/{name}"),
            f"drspo score {storage.base} --scoring.scorers {read_about(storage, name).scorer}",
        )
    if lacking:
        log.warning("the scores of %s are left out: %d images have none yet", name, lacking)
    return not lacking


def _known(candidates: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """The candidates that have a number by each of these names."""
    weighted = [pl.col("scores").struct.field(name).is_not_null() for name in sorted(names)]
    return candidates.filter(weighted) if weighted else candidates
