"""Shards written by Ray tasks: the driver hands out rows without pictures, in the order of their units.

A task takes some shards that follow one another, so that it reads a unit once for all that it fills. Only a
unit at the border of two tasks may be read by both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dataset_builder.export import write_here
from dataset_builder.gather import Shard
from drspo.errors import UserError
from pipeline.candidates.cluster import connect
from pipeline.settings import ExportSettings, ResourceSettings
from pipeline.units import DamagedFile, UnitStore

log = logging.getLogger(__name__)

SHARDS_PER_TASK = 16
PAUSE = 1.0
"""Seconds until a task is begun again: a node that was lost may be taken for alive for that long."""
_RETRIES = 3


@dataclass(frozen=True)
class RayWriter:
    """Writes an export's shards on the cluster; a task for each of its logical CPUs at a time."""

    resources: ResourceSettings

    def __call__(
        self,
        store: UnitStore,
        shards: Iterable[Shard],
        scorers: Sequence[str],
        settings: ExportSettings,
        standing: Set[str],
    ) -> Iterator[str]:
        """The name of each shard that stands; raises what ended a task."""
        connect(self.resources)
        most = max(2, int(ray.cluster_resources().get("CPU", 1.0)))
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_write)

        def begin(batch: list[Shard]) -> Any:
            own = {shard.name for shard in batch} & standing
            return task.remote(store, batch, scorers, settings, own)

        flying = Flying(begin, self.resources.restarts)
        try:
            for batch in _batches(shards):
                while len(flying.tasks) >= most:
                    yield from flying.ended()
                flying.add(batch)
            while flying.tasks:
                yield from flying.ended()
        finally:
            # With their workers: an interrupted one may serve the next task with half a module imported.
            for one in flying.tasks:
                ray.cancel(one, force=True)


class Flying:
    """Tasks under way. One that was lost is begun again, so many times: Ray itself does not where a node went
    before the task had a worker there."""

    def __init__(self, begin: Callable[[list[Shard]], Any], restarts: int) -> None:
        self.begin, self.restarts = begin, restarts
        self.tasks: dict[Any, tuple[list[Shard], int]] = {}

    def add(self, batch: list[Shard], lost: int = 0) -> None:
        """Begin a task; `lost` says how often it was."""
        self.tasks[self.begin(batch)] = batch, lost

    def ended(self) -> list[str]:
        """The names that one task gave, as it ends; none where it was lost. Raises what else ended it."""
        (done,), _ = ray.wait(list(self.tasks), num_returns=1)
        batch, lost = self.tasks.pop(done)
        try:
            return _names(ray.get(done))
        except RayError as error:
            if isinstance(error, RayTaskError) or lost == self.restarts:
                raise
            log.warning("a task that writes shards was lost (%s); beginning it again", type(error).__name__)
            time.sleep(PAUSE)
            self.add(batch, lost + 1)
            return []


def _write(
    store: UnitStore,
    shards: list[Shard],
    scorers: Sequence[str],
    settings: ExportSettings,
    standing: Set[str],
) -> list[str] | DamagedFile | UserError:
    """The task. What ends it is given, not raised: Ray would pass on only its text."""
    try:
        return list(write_here(store, shards, scorers, settings, standing))
    except UserError as error:
        return error


def _names(answer: list[str] | UserError) -> list[str]:
    if isinstance(answer, UserError):
        raise answer
    return answer


def _batches(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    coming = iter(shards)
    while batch := list(islice(coming, SHARDS_PER_TASK)):
        yield batch
