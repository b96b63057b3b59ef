"""A builder whose phases take their time, and say when they are at work, so that `benchmarks.kills` can aim.

    python -m benchmarks.slowed ...        as `python -m dataset_builder ...`

A filter and a scorer wait; pairing waits before and after; shards are written in tasks of two each, on a
disk that takes a second to sync. What is at work is a file in the folder that KILLS_MARKS names, for as long.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.dataset import Constant

MARKS = "KILLS_MARKS"
FILTER, SCORE, PAIRING, SYNC = 0.4, 0.5, 1.5, 1.0  # seconds


@contextlib.contextmanager
def at_work(phase: str) -> Iterator[None]:
    """Mark that this process is at work in a phase."""
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "driver"
    mark = Path(os.environ[MARKS]) / f"{phase}.{os.getpid()}.{node}.{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def dawdle(row: dict[str, Any]) -> None:
    """A filter that objects to nothing, and takes the time of a short answer."""
    with at_work("ideas"):
        time.sleep(FILTER)


class Pensive(Constant):
    """A scorer that takes its time."""

    name = "pensive"

    def score(self, images: list[Any], prompts: list[str]) -> list[float]:
        time.sleep(SCORE)
        return super().score(images, prompts)


def pairs_of(*arguments: Any) -> Any:
    """Pairs, with a pause before and after."""
    from pipeline.pairs import pairing

    with at_work("pairing"):
        time.sleep(PAIRING)
        pairs = pairing.pairs_of(*arguments)
        time.sleep(PAIRING)
        return pairs


def write(*arguments: Any) -> Any:
    """The task that writes shards, on a slow disk."""
    from dataset_builder import spread

    sync = os.fsync

    def slow(file: int) -> None:
        time.sleep(SYNC)
        sync(file)

    with at_work("shards"), mock.patch("os.fsync", slow):
        return spread._write(*arguments)


def run() -> None:
    """The builder, slowed."""
    from dataset_builder import ending, spread
    from drspo import cli

    ending.pairs_of, spread._write, spread.SHARDS_PER_TASK = pairs_of, write, 2
    cli.run("dataset_builder.command:main")


if __name__ == "__main__":
    # Under the name by which workers find it.
    from benchmarks import slowed

    slowed.run()
