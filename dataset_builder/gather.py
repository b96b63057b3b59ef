"""Shards filled unit by unit: one sweep over the units fills all shards that want something of them.

Each unit is read once, a few ahead at once; what is in memory is those, and one row group of every shard that
is open (one a layout and split).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import polars as pl

from dataset_builder.layouts import form
from drspo.files.storage import Storage
from pipeline.records import Candidate
from pipeline.settings import ExportSettings
from pipeline.shards import ShardWriter
from pipeline.tables import give_back
from pipeline.units import DamagedFile, UnitStore, unit_name

AHEAD = 4  # units that are read before they are wanted
STORING = 2  # shards that are being stored while the next are filled


@dataclass(frozen=True)
class Shard:
    """One file to write: its name, its rows in the order of their units, and how many each row group has."""

    name: str
    rows: pl.DataFrame
    groups: tuple[int, ...]
    identity: str


def write_shards(
    store: UnitStore, shards: Iterable[Shard], scorers: Sequence[str], settings: ExportSettings
) -> Iterator[str]:
    """Write shards that come in the order of their first units; gives the name of each that is stored.

    The same rows give the same bytes. Raises DamagedFile when an image's unit cannot be read.
    """
    with (
        store.storage.explained("export"),
        ThreadPoolExecutor(AHEAD) as reading,
        ThreadPoolExecutor(STORING) as storing,
    ):
        opened: set[OpenShard] = set()
        stored: deque[Future[str]] = deque()
        try:
            for unit, wanted, images in _ahead(_by_unit(shards), store, reading):
                for shard, start, count in wanted:
                    if shard.writer is None:
                        shard.open(store.storage, scorers, settings)
                        opened.add(shard)
                    if shard.fill(start, count, _getter(unit, images)):
                        stored.append(storing.submit(shard.store, store.storage))
                        opened.discard(shard)
                while len(stored) > STORING:
                    yield stored.popleft().result()
            while stored:
                yield stored.popleft().result()
        finally:
            for shard in opened:
                shard.give_up()


class OpenShard:
    """A shard that is being filled."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.groups = deque(shard.groups)
        self.writer: ShardWriter | None = None
        self.waiting: list[dict[str, Any]] = []

    def open(self, storage: Storage, scorers: Sequence[str], settings: ExportSettings) -> None:
        """Begin the file."""
        self.make, schema = form(self.shard.name, scorers, settings)
        self.file: BinaryIO = storage.spool()
        self.writer = ShardWriter(self.file, schema, self.shard.identity)

    def fill(self, start: int, count: int, get_image: Callable[[str, str], dict[str, Any]]) -> bool:
        """Add a unit's rows, and write the row groups that are full; gives whether all are written."""
        assert self.writer is not None
        self.waiting += self.make(self.shard.rows.slice(start, count), get_image)
        while self.groups and len(self.waiting) >= self.groups[0]:
            size = self.groups.popleft()
            self.writer.write(self.waiting[:size])
            del self.waiting[:size]
        return not self.groups

    def store(self, storage: Storage) -> str:
        """End the file and give it its name."""
        assert self.writer is not None
        try:
            self.writer.close()
            storage.put(self.shard.name, self.file)
        finally:
            self.give_up()
        give_back()
        return self.shard.name

    def give_up(self) -> None:
        """Close the file, whole or not."""
        assert self.writer is not None
        self.writer.give_up()
        self.file.close()


Wanted = list[tuple[OpenShard, int, int]]
"""Shards with the place and the number of the rows that they have of a unit."""


def _by_unit(shards: Iterable[Shard]) -> Iterator[tuple[str, Wanted]]:
    """Each unit once, in order, with the shards that have rows of it."""
    coming = enumerate(shards)
    heap: list[tuple[str, int, int, int, OpenShard]] = []
    ahead = next(coming, None)
    while heap or ahead:
        while ahead and (not heap or ahead[1].rows["unit_id"][0] <= heap[0][0]):
            _push(heap, 0, ahead[0], OpenShard(ahead[1]))
            ahead = next(coming, None)
        unit = heap[0][0]
        wanted: Wanted = []
        while heap and heap[0][0] == unit:
            _, number, start, count, shard = heapq.heappop(heap)
            wanted.append((shard, start, count))
            _push(heap, start + count, number, shard)
        yield unit, wanted


def _push(heap: list[Any], start: int, number: int, shard: OpenShard) -> None:
    """Put the shard where its rows from `start` on belong, unless there are none."""
    units = shard.shard.rows["unit_id"]
    if start < units.len():
        unit, end = units[start], start + 1
        while end < units.len() and units[end] == unit:
            end += 1
        heapq.heappush(heap, (unit, number, start, end - start, shard))


def _ahead(
    units: Iterator[tuple[str, Wanted]], store: UnitStore, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, Wanted, dict[str, Candidate]]]:
    """(unit, who wants it, its candidates), while the next units are read."""
    waiting: deque[tuple[str, Wanted, Future[dict[str, Candidate]]]] = deque()
    for unit, wanted in units:
        waiting.append((unit, wanted, pool.submit(_candidates, store, unit)))
        if len(waiting) > AHEAD:
            earliest, those, found = waiting.popleft()
            yield earliest, those, found.result()
    while waiting:
        earliest, those, found = waiting.popleft()
        yield earliest, those, found.result()


def _candidates(store: UnitStore, unit: str) -> dict[str, Candidate]:
    return {c.candidate_id: c for row in store.read_rows(unit) for c in row.candidates}


def _getter(unit: str, candidates: dict[str, Candidate]) -> Callable[[str, str], dict[str, Any]]:
    def get(_: str, candidate: str) -> dict[str, Any]:
        found = candidates.get(candidate)
        if found is None or found.image is None:
            raise DamagedFile(unit_name(unit), f"candidate {candidate} or its image is missing")
        return found.image

    return get
