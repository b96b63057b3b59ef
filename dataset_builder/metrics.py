"""`metrics.jsonl`: how phase 5 went over time, one line every ten seconds, for `drspo status`."""

from __future__ import annotations

import json
import time
from typing import Any

from drspo.files.storage import Storage

METRICS_NAME = "metrics.jsonl"
INTERVAL = 10.0
# Of a long run every second line goes, again and again; the newest stay, which tell the speed of now.
MOST_LINES, RECENT_LINES = 2000, 200


class Metrics:
    """Counts committed units and writes them down now and then."""

    def __init__(self, storage: Storage, total: int, done: int) -> None:
        self.storage = storage
        self.counts = {"total": total, "done": done, "dead": 0, "images": 0}
        self.lines = _earlier(storage)
        self.started = self.written = time.time()
        self.seconds = 0.0

    def unit(self, summary: dict[str, Any]) -> None:
        """Count one unit's summary."""
        self.counts["done"] += 1
        self.counts["dead"] += summary["dead"]
        self.counts["images"] += summary["images"]
        self.seconds += summary["seconds"]
        if time.time() - self.written >= INTERVAL:
            self.close()

    def close(self) -> None:
        """Write the counts so far."""
        self.written = time.time()
        line = {"time": self.written, "started": self.started, "work_seconds": self.seconds, **self.counts}
        self.lines.append(json.dumps(line))
        if len(self.lines) > MOST_LINES:
            self.lines = [*self.lines[:-RECENT_LINES:2], *self.lines[-RECENT_LINES:]]
        # An object store cannot append; so few lines of 150 bytes are small enough to rewrite.
        self.storage.write(METRICS_NAME, ("\n".join(self.lines) + "\n").encode())


def _earlier(storage: Storage) -> list[str]:
    try:
        return storage.read(METRICS_NAME).decode().splitlines()
    except FileNotFoundError:
        return []
