"""Parquet files from elsewhere: opened with bounds, read in pieces that fit a machine.

A few kilobytes of Parquet can promise a trillion rows or unfold to all of a machine's memory: pages are
compressed, and a dictionary says a long value once for many rows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError

MOST_UNPACKED = 4 << 30  # bytes of a row group: forty times what one of ours has
MOST_RATIO = 1000  # unpacked to stored, beyond a megabyte or so; text packs 3 to 30 times
MOST_BATCH = 256 << 20
# What reading a damaged file raises: Arrow's own, and Python's for texts, numbers and times that are none.
DAMAGES = (pa.ArrowException, OSError, ValueError, OverflowError, LookupError, NotImplementedError)
PIECEWISE: dict[str, Any] = {"pre_buffer": False}
"""Options for a file that is read piece by piece: else Arrow fetches all of it for the first piece."""
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


def give_up(writer: pq.ParquetWriter) -> None:
    """Ends the writer of a file that nobody wants any more, whatever state file and writer are in.

    Left to itself it would end when it is collected, and write once more to a file that is closed by then.
    """
    with contextlib.suppress(Exception):
        writer.close()
    writer.is_open = False


def batch_rows(file: pq.ParquetFile, most: int) -> int:
    """How many rows to read at once, at most `most`, when a row may hold all of its row group."""
    return max(1, min(most, MOST_BATCH // max(1, max(_unpacked(file.metadata), default=1))))


def _bomb(metadata: pq.FileMetaData, stored: int) -> str:
    groups = _unpacked(metadata)
    if max(groups, default=0) > MOST_UNPACKED:
        return f"a row group unpacks to {max(groups)} bytes"
    if sum(groups) > _SPARE + MOST_RATIO * stored:
        return f"its {stored} bytes unpack to {sum(groups)}"
    if not 0 <= metadata.num_rows <= _SPARE + MOST_RATIO * stored:
        return f"its {stored} bytes promise {metadata.num_rows} rows"
    return ""


def _unpacked(metadata: pq.FileMetaData) -> Sequence[int]:
    """The bytes of each row group, by its own word: asked for a damaged column's Arrow aborts."""
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]


def _size(source: str | BinaryIO) -> int:
    if isinstance(source, str):
        return os.path.getsize(source)
    place = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(place)
    return end
