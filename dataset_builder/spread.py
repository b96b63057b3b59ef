"""Shards written by Ray tasks: the driver hands out rows without pictures, in the order of their units.

A task takes some shards that follow one another, so that it reads a unit once for all that it fills. Only a
unit at the border of two tasks may be read by both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray

from dataset_builder.export import write_here
from dataset_builder.gather import Shard
from drspo.errors import UserError
from pipeline.candidates.cluster import connect
from pipeline.settings import ExportSettings, ResourceSettings
from pipeline.units import DamagedFile, UnitStore

SHARDS_PER_TASK = 16
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
        flying: list[Any] = []
        try:
            for batch in _batches(shards):
                while len(flying) >= most:
                    done, flying = ray.wait(flying, num_returns=1)
                    yield from _names(ray.get(done[0]))
                own = {shard.name for shard in batch} & standing
                flying.append(task.remote(store, batch, scorers, settings, own))
            while flying:
                done, flying = ray.wait(flying, num_returns=1)
                yield from _names(ray.get(done[0]))
        finally:
            # With their workers: an interrupted one may serve the next task with half a module imported.
            for one in flying:
                ray.cancel(one, force=True)


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
