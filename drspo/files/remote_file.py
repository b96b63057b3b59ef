"""A file behind an fsspec URL, read in exactly the ranges that are asked for, each waited for patiently."""

from __future__ import annotations

import io
from typing import Any

from drspo.files.patience import patiently


class RemoteFile(io.RawIOBase):
    """Ranges of one object, a request for each read. The scores of a unit are a thousandth of it."""

    def __init__(self, filesystem: Any, path: str, where: str) -> None:
        self.filesystem, self.path, self.where = filesystem, path, where
        self.size = int(patiently(lambda: filesystem.info(path)["size"], where))
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        start, end = self.position, min(self.position + len(buffer), self.size)
        if start >= end:
            return 0
        data = patiently(lambda: self.filesystem.cat_file(self.path, start=start, end=end), self.where)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def readall(self) -> bytes:
        return self.read(max(0, self.size - self.position)) or b""
