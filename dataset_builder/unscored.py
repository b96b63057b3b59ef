"""Which images of a finished run have no number in a column yet, found on disk, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from dataset_builder.ending import SCORES_NAME
from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, PIECEWISE, open_parquet
from drspo.files.run import RunDir
from pipeline.pairs.columns import NO_SCORES, one_each, score_pieces
from pipeline.pairs.heaps import by_unit, matched
from pipeline.records import DEAD
from pipeline.spill import Spill


class Images:
    """The images of a finished run, in a file without a name that is gone when this is closed."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.rows = Spill(run)
        for piece in _numbered(_alive(run)):
            self.rows.add(piece)

    def close(self) -> None:
        """Give the file up."""
        self.rows.file.close()

    def __len__(self) -> int:
        return self.rows.height

    def lacking(self, columns: Sequence[str], share: tuple[int, int]) -> Spill:
        """The units that have an image without a number: unit_id, and the columns that lack one.

        Of several processes the k-th of n, (k, n), has every n-th of all units, also of those that lack
        nothing: of what is left another process would have found this one's work.
        """
        mine, of = share
        todo = Spill(self.run)
        with Spill(self.run) as lacking:
            for name in columns:
                for images, rows in self.scored(name):
                    numbers = rows.filter(pl.col("score").is_not_null())
                    without = images.join(numbers, on="candidate_id", how="anti")
                    own = without.filter(pl.col("place") % of == mine - 1)
                    lacking.add(own.select("unit_id").unique().with_columns(column=pl.lit(name)))
            for piece in by_unit(self.run, lacking):
                todo.add(piece.group_by("unit_id", maintain_order=True).agg(pl.col("column").unique()))
        return todo

    def scored(self, name: str) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """(some of the images, the rows that the column has of them, one each), until all had their turn."""
        with Spill(self.run) as stored:
            for rows in score_pieces(self.run, name):
                stored.add(rows)
            for images, rows in matched(self.run, self.rows, stored, "candidate_id"):
                rows = rows if rows.height else NO_SCORES
                yield images, one_each(rows).join(images, on="candidate_id", how="semi")


def _alive(run: RunDir) -> Iterator[pl.DataFrame]:
    """The candidates that have an image and belong to no dead prompt: unit_id, candidate_id; in pieces."""
    if not run.exists(SCORES_NAME):
        hint = "Its command continues it; scores are added to what is finished."
        raise UserError("this run is not finished: it has no scores yet", run.base, hint)
    columns = ["unit_id", "candidate_id", "status", "image_bytes"]
    with run.open(SCORES_NAME) as stream:
        file = open_parquet(stream, run.url(SCORES_NAME), **PIECEWISE)
        try:
            for batch in file.iter_batches(columns=columns):
                piece = pl.DataFrame(pl.from_arrow(batch))
                alive = piece.filter((pl.col("status") != DEAD) & (pl.col("image_bytes") > 0))
                yield alive.select("unit_id", "candidate_id")
        except DAMAGES as error:
            hint = "Delete it; the command that built the run makes it again."
            raise UserError(f"this table is damaged: {error}", run.url(SCORES_NAME), hint) from error


def _numbered(pieces: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows with the place of their unit among all; a unit's rows stand together."""
    place, last = -1, ""
    for piece in pieces:
        begins = piece["unit_id"] != piece["unit_id"].shift(1, fill_value=last)
        piece = piece.with_columns(place=begins.cast(pl.Int64).cum_sum() + place)
        if piece.height:
            place, last = int(piece["place"][-1]), str(piece["unit_id"][-1])
        yield piece
