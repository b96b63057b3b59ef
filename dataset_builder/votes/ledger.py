"""The file of votes as it is written: a line a vote, synced before the judge sees the next scrolls."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from pipeline.pairs.votes import Vote, standing


class Ledger:
    """A local file that is only added to; any number of programs on one machine may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def votes(self) -> list[Vote]:
        """The votes that stand."""
        return standing(self.path.read_bytes()) if self.path.exists() else []

    def add(self, vote: Vote, *, upper: str, seconds: float) -> None:
        """Keeps a vote, with the scroll that stood above and how long the judge looked."""
        self._append(
            {
                **{name: getattr(vote, name) for name in ("judge", "ballot", "first", "second", "verdict")},
                "upper": upper,
                "seconds": round(seconds, 1),
                "time": time.time(),
            }
        )

    def take_back(self, judge: str, ballot: str) -> None:
        """Takes a judge's vote back; the line stays, and says so."""
        self._append({"judge": judge, "ballot": ballot, "undone": True, "time": time.time()})

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            # A kill may have cut a line short: the next one begins on a line of its own.
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            if torn:
                os.ftruncate(file, _whole(file, size))
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            if os.write(file, data) != len(data):
                raise OSError(f"the vote was not written whole to {self.path}")
            os.fsync(file)
        finally:
            os.close(file)


def _whole(file: int, size: int) -> int:
    """Bytes up to the end of the last whole line."""
    data = os.pread(file, size, 0)
    return data.rfind(b"\n") + 1
