"""Scores that were added to a finished run: columns in files of their own, keyed by candidate.

`scores/<column>/scorer.json` says what the column is, and is written once; `scores/<column>/*.parquet` are
its rows, in as many files as it was written in. A row without a score has the reason. Where two files speak
of a candidate, the number counts, whichever file it stands in.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, open_parquet
from drspo.files.storage import Storage
from drspo.files.texts import parse_json
from drspo.hashing import content_hash
from pipeline.pairs.heaps import matched
from pipeline.spill import Spill

FOLDER, ABOUT = "scores", "scorer.json"
SCHEMA = pa.schema([("candidate_id", pa.string()), ("score", pa.float64()), ("error", pa.string())])
NO_SCORES = pl.DataFrame(pl.from_arrow(SCHEMA.empty_table()))


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


def count_scores(storage: Storage, name: str) -> int:
    """How many candidates the column has a number for, counted on disk. UserError as by `score_pieces`."""
    with Spill(storage) as stored, Spill(storage) as none:
        for rows in score_pieces(storage, name):
            stored.add(rows.filter(pl.col("score").is_not_null()).select("candidate_id"))
        parts = matched(storage, stored, none, "candidate_id")
        return sum(rows["candidate_id"].n_unique() for rows, _ in parts)


def score_pieces(storage: Storage, name: str) -> Iterator[pl.DataFrame]:
    """All rows that were ever stored of a column, a file at a time: candidate_id, score, error.

    Raises UserError for a damaged or foreign file, by its name.
    """
    for each in storage.list(f"{FOLDER}/{name}/"):
        if each.endswith(".parquet"):
            yield pl.DataFrame(pl.from_arrow(_read(storage, each)))


def one_each(rows: pl.DataFrame) -> pl.DataFrame:
    """One of the rows of each candidate, by candidate id: that with the number, where there is one."""
    rows = rows.sort("candidate_id", "score", nulls_last=True, maintain_order=True)
    return rows.unique("candidate_id", keep="first", maintain_order=True)


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
