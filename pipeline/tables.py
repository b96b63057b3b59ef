"""A run's tables as files: Parquet, whole or refused by name, stored once; long ones piece by piece."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, PIECEWISE, give_up, open_parquet
from drspo.files.storage import Storage

ROWS = 1 << 17
"""Rows of a row group: as much of a table as whoever writes or reads it piece by piece has in memory."""
_READ = 1 << 14  # rows that a reader has at once
_BUFFER = 1 << 20


def parquet(table: pa.Table) -> bytes:
    """A table as compressed Parquet bytes, the same however it was put together."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd", row_group_size=ROWS)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """The table in Parquet bytes of our own making."""
    return pq.read_table(io.BytesIO(data))


def write_pieces(file: BinaryIO, schema: pa.Schema, pieces: Iterable[pa.Table]) -> None:
    """Write the pieces of a table to a file: the bytes that `parquet` gives for all of it."""
    writer = pq.ParquetWriter(file, schema, compression="zstd")
    try:
        empty = True
        for group in regrouped(pieces, ROWS):
            empty = False
            writer.write_table(group, row_group_size=ROWS)
            del group  # else it would be there until the next is
        if empty:
            writer.write_table(schema.empty_table())
        writer.close()
    finally:
        give_up(writer)


def regrouped(pieces: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in pieces of exactly `rows`, and a last one with the rest."""
    waiting: list[pa.Table] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += piece.num_rows
        del piece  # what was handed on is in nobody's way while its reader works
        while count >= rows:
            whole = pa.concat_tables(waiting)
            # An empty rest would hold on to all the rows before it.
            waiting, count = [whole.slice(rows)] if count > rows else [], count - rows
            columns = whole.slice(0, rows).columns
            schema = whole.schema
            del whole
            yield _combined(columns, schema)
    if count:
        whole = pa.concat_tables(waiting)
        waiting.clear()
        columns, schema = whole.columns, whole.schema
        del whole
        yield _combined(columns, schema)


def _combined(columns: list[pa.ChunkedArray], schema: pa.Schema) -> pa.Table:
    """The table of the columns, each in one piece. They leave the list: one is there twice at a time."""
    combined = []
    while columns:
        column = columns.pop(0)
        if column.num_chunks != 1:
            column = pa.chunked_array([column.combine_chunks()], column.type)
        combined.append(column)
        del column
    return pa.Table.from_arrays(combined, schema=schema)


def give_back() -> None:
    """Give the pages that Arrow's allocator keeps for later back to the machine.

    It keeps some for each thread and each size, which would look as if memory grew with a run.
    """
    pa.default_memory_pool().release_unused()


def store_table(storage: Storage, name: str, table: pa.Table) -> pa.Table:
    """Store a table unless another copy of the job was first; gives what is stored."""
    return table if storage.create(name, parquet(table)) else read_table(storage, name, table.schema)


def store_pieces(storage: Storage, name: str, schema: pa.Schema, pieces: Iterable[pa.Table]) -> bool:
    """Store the pieces of a table as one; False when another copy of the job was first."""
    with storage.explained(name), storage.spool() as file:
        write_pieces(file, schema, pieces)
        return storage.put_new(name, file)


def read_table(storage: Storage, name: str, schema: pa.Schema) -> pa.Table:
    """A table of the run folder, refused with its name when it is damaged or has other columns."""
    try:
        table = open_parquet(io.BytesIO(storage.read(name)), storage.url(name)).read()
    except (UserError, *DAMAGES) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _damaged(storage, name, error) from error
    if not table.schema.equals(schema):
        raise _foreign(storage, name)
    return table.cast(schema)  # Parquet has a name of its own for what is in a list


def read_pieces(storage: Storage, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The same table in pieces that fit in memory however long it is, refused alike."""
    with storage.open(name) as stream:
        try:
            file = open_parquet(stream, storage.url(name), buffer_size=_BUFFER, **PIECEWISE)
            fitting = file.schema_arrow.equals(schema)
            for batch in file.iter_batches(batch_size=_READ, use_threads=False) if fitting else ():
                piece = pa.Table.from_batches([batch]).cast(schema)
                del batch
                yield piece
                del piece
                give_back()
        except (UserError, *DAMAGES) as error:
            raise _damaged(storage, name, error) from error
        if not fitting:
            raise _foreign(storage, name)


def _damaged(storage: Storage, name: str, error: Exception) -> UserError:
    return UserError(
        f"{name} is not a whole Parquet file: {error}",
        storage.url(name),
        "Units refer to it, so it is not replaced silently. Restore it, or use a new run folder.",
    )


def _foreign(storage: Storage, name: str) -> UserError:
    return UserError(f"{name} has other columns than this version writes", storage.url(name))
