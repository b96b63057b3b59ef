"""Scores that were added to a finished run: columns in files of their own, keyed by candidate.

`scores/<column>/scorer.json` says what the column is, and is written once; `scores/<column>/*.parquet` are
its rows, in as many files as it was written in. A row without a score has the reason. Where two files speak
of a candidate, the number counts, whichever file it stands in.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, open_parquet
from drspo.files.storage import Storage
from drspo.files.texts import parse_json
from drspo.hashing import content_hash
from pipeline.pairs.whole import Parts, score_weights
from pipeline.settings import PairSettings

log = logging.getLogger(__name__)

FOLDER, ABOUT = "scores", "scorer.json"
SCHEMA = pa.schema([("candidate_id", pa.string()), ("score", pa.float64()), ("error", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What an added column is: how it was asked for, and the scorer's checkpoint, its hash and view."""

    name: str
    scorer: str
    """As in scoring.scorers: a registered name, module:Class, or own_name=either."""
    options: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One candidate's number, or why there is none."""

    candidate_id: str
    score: float | None
    error: str = ""


def claim_column(storage: Storage, column: Column) -> None:
    """Write down what the column is. UserError when its name stands for something else already."""
    data = (json.dumps(asdict(column), indent=1) + "\n").encode()
    if storage.create(_about(column.name), data):
        return
    there = read_about(storage, column.name)
    if there != column:
        raise UserError(
            f"the column {column.name!r} holds the scores of {there.scorer} ({there.version}"
            f"{', ' + ', '.join(there.options) if there.options else ''})",
            storage.url(_about(column.name)),
            f"Give these a name of their own: other_{column.name}={column.scorer.rpartition('=')[2]}.",
        )


def column_names(storage: Storage) -> tuple[str, ...]:
    """The names of a run's added columns, sorted."""
    folders = [name[:-1].rpartition("/")[2] for name in storage.level(f"{FOLDER}/") if name.endswith("/")]
    return tuple(name for name in folders if storage.exists(_about(name)))


def read_about(storage: Storage, name: str) -> Column:
    """What an added column is. Raises UserError when its file is damaged."""
    facts = parse_json(storage.read(_about(name)), storage.url(_about(name)))
    try:
        return Column(**{**facts, "options": tuple(facts["options"])})
    except (TypeError, KeyError) as error:
        raise UserError(f"this file says no column: {error}", storage.url(_about(name))) from error


def write_scores(storage: Storage, name: str, rows: Sequence[Score]) -> None:
    """Store some rows of a column, whole or not at all; the same candidates again replace their rows."""
    rows = sorted(rows, key=lambda row: row.candidate_id)
    part = content_hash(*(row.candidate_id for row in rows), length=24)
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    storage.write(f"{FOLDER}/{name}/{part}.parquet", buffer.getvalue())


def read_scores(storage: Storage, name: str) -> pl.DataFrame:
    """The column's rows, one per candidate, by candidate id: candidate_id, score, error.

    Raises UserError for a damaged or foreign file, by its name.
    """
    names = [each for each in storage.list(f"{FOLDER}/{name}/") if each.endswith(".parquet")]
    tables = [_read(storage, each) for each in names] or [SCHEMA.empty_table()]
    rows: Any = pl.from_arrow(pa.concat_tables(tables))
    rows = rows.sort("candidate_id", "score", nulls_last=True, maintain_order=True)
    return rows.unique("candidate_id", keep="first", maintain_order=True)


class Added:
    """The run's added scores, joined to its candidates part by part.

    A column that does not cover every candidate is left out; it, or a candidate without its number, cannot be
    paired by it: UserError for the column, the candidate leaves. All numbers of the columns are in memory.
    """

    def __init__(
        self, storage: Storage, parts: Parts, scorers: Sequence[str], settings: PairSettings
    ) -> None:
        names = column_names(storage)
        self.weights = score_weights(settings, (*scorers, *names))
        self.columns: dict[str, pl.DataFrame] = {}
        for name in names:
            rows = read_scores(storage, name).select("candidate_id", "score")
            if self._covers(storage, name, rows, parts):
                self.columns[name] = rows
        self.scorers = (*scorers, *self.columns)
        """The names of all scores."""

    def join(self, candidates: pl.DataFrame) -> pl.DataFrame:
        """The candidates with all their scores, those that can be paired by them."""
        for name, rows in self.columns.items():
            candidates = with_column(candidates, name, rows)
        weighted = [
            pl.col("scores").struct.field(name).is_not_null() for name in self.columns if name in self.weights
        ]
        return candidates.filter(weighted) if weighted else candidates

    def _covers(self, storage: Storage, name: str, rows: pl.DataFrame, parts: Parts) -> bool:
        lacking = count = 0
        for part in parts():
            count += part.height
            lacking += part.join(rows, on="candidate_id", how="anti").height
        if lacking and name in self.weights:
            raise UserError(
                f"{lacking} of {count} images have not been scored by {name!r} yet",
                storage.url(f"{FOLDER}/{name}"),
                f"drspo score {storage.base} --scoring.scorers {read_about(storage, name).scorer}",
            )
        if lacking:
            log.warning("the scores of %s are left out: %d images have none yet", name, lacking)
        return not lacking


def join_added(
    storage: Storage, candidates: pl.DataFrame, scorers: Sequence[str], settings: PairSettings
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """(the candidates of a run with its added scores, the names of all their scores), see `Added`."""
    added = Added(storage, lambda: [candidates], scorers, settings)
    return added.join(candidates), added.scorers


def with_column(candidates: pl.DataFrame, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The candidates, whose struct `scores` has the column's numbers too; null where there is none."""
    added = rows.select("candidate_id", pl.col("score").alias("_added"))
    joined = candidates.join(added, on="candidate_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("scores").struct.with_fields(pl.col("_added").alias(name))).drop(
        "_added"
    )


def _read(storage: Storage, name: str) -> pa.Table:
    try:
        table = open_parquet(io.BytesIO(storage.read(name)), storage.url(name)).read()
    except (UserError, *DAMAGES) as error:
        raise UserError(f"these scores cannot be read: {error}", storage.url(name), _DELETE) from error
    if not table.schema.equals(SCHEMA):
        raise UserError("these are not the columns of scores", storage.url(name), _DELETE)
    return table


_DELETE = "Delete the file; `drspo score` then makes these scores again."


def _about(name: str) -> str:
    return f"{FOLDER}/{name}/{ABOUT}"
