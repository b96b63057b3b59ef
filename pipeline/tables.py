"""A run's small tables as files: Parquet, whole or refused by name, stored once."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, open_parquet
from drspo.files.storage import Storage


def parquet(table: pa.Table) -> bytes:
    """A table as compressed Parquet bytes, the same however it was put together."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """The table in Parquet bytes of our own making."""
    return pq.read_table(io.BytesIO(data))


def store_table(storage: Storage, name: str, table: pa.Table) -> pa.Table:
    """Store a table unless another copy of the job was first; gives what is stored."""
    return table if storage.create(name, parquet(table)) else read_table(storage, name, table.schema)


def read_table(storage: Storage, name: str, schema: pa.Schema) -> pa.Table:
    """A table of the run folder, refused with its name when it is damaged or has other columns."""
    try:
        table = open_parquet(io.BytesIO(storage.read(name)), storage.url(name)).read()
    except (UserError, *DAMAGES) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(
            f"{name} is not a whole Parquet file: {error}",
            storage.url(name),
            "Units refer to it, so it is not replaced silently. Restore it, or use a new run folder.",
        ) from error
    if not table.schema.equals(schema):
        raise UserError(f"{name} has other columns than this version writes", storage.url(name))
    return table.cast(schema)  # Parquet has a name of its own for what is in a list
