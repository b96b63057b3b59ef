"""A PNG written from strips of columns in flat memory, however wide it is.

A PNG goes row by row and a long scroll comes strip by strip. So strips first wait, uncompressed, in a file
beside the PNG, each row in its place; then rows are read, filtered and compressed one after the other.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from drspo.files.backends import temporary_name

CHUNK = 1 << 20
"""Bytes of compressed rows in one chunk of the file, at least."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB, _UP = 1, 2


class LongPicture:
    """RGB columns as they come, kept on the disk; a context that leaves nothing of them behind."""

    def __init__(self, target: Path, height: int, width: int) -> None:
        self.target, self.height, self.width, self.filled = target, height, width, 0
        self._waiting = target.with_name(temporary_name(target.name))
        self._file: BinaryIO | None = None

    def __enter__(self) -> LongPicture:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._waiting.open("w+b")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._waiting.unlink(missing_ok=True)

    def add(self, columns: np.ndarray) -> None:
        """The next columns, uint8 [height, some, 3]; ValueError for another height and for too many."""
        if self._file is None or columns.shape[0] != self.height or columns.dtype != np.uint8:
            raise ValueError(f"columns of a picture {self.height} high are needed, not {columns.shape}")
        if self.filled + columns.shape[1] > self.width:
            raise ValueError(f"{self.filled + columns.shape[1]} columns for a picture {self.width} wide")
        for row, values in enumerate(columns):
            self._file.seek(3 * (row * self.width + self.filled))
            self._file.write(values.tobytes())
        self.filled += columns.shape[1]

    def write(self, key: str, text: str) -> None:
        """The PNG with one text in it, whole or not at all; ValueError while columns are missing."""
        if self._file is None or self.filled != self.width:
            raise ValueError(f"{self.filled} of {self.width} columns are there")
        made = self.target.with_name(temporary_name(self.target.name))
        try:
            with made.open("wb") as out:
                out.write(_SIGNATURE)
                _chunk(out, b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0))
                _chunk(out, b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1"))
                self._write_rows(out)
                _chunk(out, b"IEND", b"")
                out.flush()
                os.fsync(out.fileno())
            os.replace(made, self.target)
        finally:
            made.unlink(missing_ok=True)

    def _write_rows(self, out: BinaryIO) -> None:
        assert self._file is not None
        packer, ready = zlib.compressobj(6), bytearray()
        above = np.zeros((self.width, 3), np.uint8)
        self._file.seek(0)
        for _ in range(self.height):
            row = np.frombuffer(self._file.read(3 * self.width), np.uint8).reshape(-1, 3)
            ready += packer.compress(_filtered(row, above))
            above = row
            if len(ready) >= CHUNK:
                _chunk(out, b"IDAT", bytes(ready))
                ready.clear()
        _chunk(out, b"IDAT", bytes(ready) + packer.flush())


def _filtered(row: np.ndarray, above: np.ndarray) -> bytes:
    """The row less its left neighbours or less the row above, whichever is smaller (PNG's rule of thumb)."""
    sub = row.copy()
    sub[1:] -= row[:-1]
    choices = {_SUB: sub, _UP: row - above}
    kind = min(choices, key=lambda key: int(np.abs(choices[key].astype(np.int8).astype(np.int16)).sum()))
    return bytes([kind]) + choices[kind].tobytes()


def _chunk(out: BinaryIO, kind: bytes, data: bytes) -> None:
    out.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
