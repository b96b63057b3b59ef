"""Tables on disk between two passes over them: in a file without a name, read back piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa

from drspo.files.storage import Storage


class Spill:
    """Rows that were added, in their order. All that is in memory is what was added last."""

    def __init__(self, storage: Storage, rows: int = 1 << 12) -> None:
        self.file = storage.spool()
        self.rows = rows
        """A piece, at least, as it is written and read back; the last one may be shorter."""
        self.height = 0
        self._writer: Any = None
        self._waiting: list[pa.Table] = []
        self._count = 0

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows, all with the same columns."""
        if frame.is_empty() and self._writer is None and not self._waiting:
            return
        self._waiting.append(frame.to_arrow())
        self._count += frame.height
        self.height += frame.height
        if self._count >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Write what waits in memory."""
        if not self._count:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_stream(_Shared(self.file), table.schema, options=options)
        self.file.seek(0, os.SEEK_END)
        self._writer.write_table(table)
        self._waiting, self._count = [], 0

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """The rows, a piece at a time; one reader at a time."""
        self.flush()
        if self._writer is None:
            return
        self.file.seek(0)
        for batch in pa.ipc.open_stream(_Shared(self.file)):
            yield pl.DataFrame(pl.from_arrow(batch))

    def whole(self) -> pl.DataFrame:
        """All rows at once; no rows and no columns where nothing was added."""
        frames = list(self)
        return pl.concat(frames, rechunk=True) if frames else pl.DataFrame()


class _Shared:
    """A file that Arrow reads and writes and never closes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.write, self.tell, self.seek = file.read, file.write, file.tell, file.seek

    def flush(self) -> None: ...

    def close(self) -> None: ...
