"""Parquet files from elsewhere: opened with bounds, read in pieces that fit a machine.

A few kilobytes of Parquet can promise a trillion rows or unfold to all of a machine's memory: pages are
compressed, and a dictionary says a long value once for many rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError

MOST_UNPACKED = 2 << 30  # bytes of one column in one row group: twenty times what a shard of ours has
MOST_RATIO = 1000  # unpacked to stored, beyond a megabyte or so; text packs 3 to 30 times
MOST_BATCH = 256 << 20
# What reading a damaged file raises: Arrow's own, and Python's for texts, numbers and times that are none.
DAMAGES = (pa.ArrowException, OSError, ValueError, OverflowError, LookupError, NotImplementedError)
_SPARE = 64 << 20  # bytes, and rows, that any file may unfold to


def open_parquet(source: str | BinaryIO, where: str, **options: Any) -> pq.ParquetFile:
    """The opened file. Raises UserError when it is not whole, or its footer promises more than is sane."""
    try:
        file = pq.ParquetFile(source, **options)
        stored = _size(source)
        problem = _bomb(file.metadata, stored)
    except DAMAGES as error:
        if isinstance(error, FileNotFoundError):
            raise UserError("there is no such file", where) from error
        raise UserError(f"this is not a whole Parquet file: {error}", where) from error
    if problem:
        raise UserError(f"this Parquet file is not read: {problem}", where)
    return file


def batch_rows(file: pq.ParquetFile, most: int) -> int:
    """How many rows to read at once, at most `most`, when a row may hold any value of its column's chunk."""
    return max(1, min(most, MOST_BATCH // max(1, _largest_chunk(file.metadata))))


def _bomb(metadata: pq.FileMetaData, stored: int) -> str:
    unpacked = sum(_chunk_sizes(metadata))
    if _largest_chunk(metadata) > MOST_UNPACKED:
        return f"a column of one row group unpacks to {_largest_chunk(metadata)} bytes"
    if unpacked > _SPARE + MOST_RATIO * stored:
        return f"its {stored} bytes unpack to {unpacked}"
    if metadata.num_rows < 0 or metadata.num_rows > _SPARE + MOST_RATIO * stored:
        return f"its {stored} bytes promise {metadata.num_rows} rows"
    return ""


def _largest_chunk(metadata: pq.FileMetaData) -> int:
    return max(_chunk_sizes(metadata), default=0)


def _chunk_sizes(metadata: pq.FileMetaData) -> Sequence[int]:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return [group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns)]


def _size(source: str | BinaryIO) -> int:
    if isinstance(source, str):
        return os.path.getsize(source)
    place = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(place)
    return end
