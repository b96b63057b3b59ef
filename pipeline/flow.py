"""Phase 5 as a Ray Data graph: generators, scorers and committers as pools of actors, a unit per row.

Only text and finished, encoded images travel; no shuffle ever carries an image. A row that left the
graph is a committed file, so what a failure of the infrastructure takes along is made again, and
nothing else. Prompts (phases 1 to 3) are text for one language model with one rate limit, and run
in the driver.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.candidates.actors import Commit, Generate, Score, StageSpec
from pipeline.candidates.cluster import Capacity, connect, quiet_data
from pipeline.candidates.plan import todo, unit_payload
from pipeline.settings import ResourceSettings

log = logging.getLogger(__name__)

Stage = Callable[[dict[str, Any]], dict[str, Any]]


def candidates_graph(units: pa.Table, spec: StageSpec, capacity: Capacity) -> Dataset:
    """The plan's rows to summaries of committed units, lazily."""
    rows = ray.data.from_arrow(units).repartition(target_num_rows_per_block=1).map(unit_payload, num_cpus=0.1)
    shares = {"num_cpus": capacity.actor_cpus}
    generated = rows.map(
        Actor,
        fn_constructor_args=(Generate, spec),
        compute=pool(capacity.generators, capacity.in_flight),
        num_gpus=capacity.generator_gpus or None,
        **shares,
    )
    scored = generated.map(
        Actor,
        fn_constructor_args=(Score, spec),
        compute=pool(capacity.scorers, capacity.in_flight),
        num_gpus=capacity.scorer_gpus or None,
        **shares,
    )
    return scored.map(Actor, fn_constructor_args=(Commit, spec), compute=pool(1, 4), num_cpus=0.1)


def pool(size: int, in_flight: int) -> ActorPoolStrategy:
    """Exactly `size` actors; rows are large, so few are queued at each.

    A pool that may grow does not: Ray Data adds an actor when 1.75 tasks are queued at each, which at one in
    flight never happens, and one actor works while the other GPUs idle.
    """
    return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=in_flight)


class Actor:
    """A stage on an actor. What keeps it from starting is written down: Ray would pass on only its text."""

    def __init__(self, stage: Callable[[StageSpec], Stage], spec: StageSpec) -> None:
        try:
            self.stage = stage(spec)
        except Exception as error:
            Storage(spec.url).write(_failure_name(spec), json.dumps(_as_facts(error)).encode())
            raise

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.stage(row)


class RayExecutor:
    """Runs units on Ray, starting the graph again for what is left after a failure of the infrastructure."""

    def __init__(self, resources: ResourceSettings) -> None:
        self.resources = resources

    def __call__(self, units: pa.Table, spec: StageSpec) -> Iterator[dict[str, Any]]:
        """The summary of each unit as it is committed; raises the stage's error once restarts are used up."""
        connect(self.resources)
        store = spec.store()
        for attempt in range(self.resources.restarts + 1):
            try:
                yield from self._once(units, spec)
                return
            except Exception as error:
                _raise_ours(error, spec)
                if attempt == self.resources.restarts:
                    raise
                log.warning("the graph failed (%s); starting it again for what is left", _first_line(error))
            units = todo(units, store.done())
            if not units.num_rows:
                return

    def _once(self, units: pa.Table, spec: StageSpec) -> Iterator[dict[str, Any]]:
        quiet_data()
        capacity = Capacity.of_cluster(self.resources, units.num_rows)
        log.info("%s", capacity)
        yield from candidates_graph(units, spec, capacity).iter_rows()


def _raise_ours(error: BaseException, spec: StageSpec) -> None:
    """Raise the UserError behind a failure, and whatever a second start would only repeat."""
    storage = Storage(spec.url)
    if storage.exists(_failure_name(spec)):
        facts = json.loads(storage.read(_failure_name(spec)))
        storage.delete(_failure_name(spec))
        raise UserError(**facts) from error
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for found in (seen, cause):
            if isinstance(found, UserError):
                raise UserError(found.what, found.where, found.hint) from error
        seen = seen.__cause__ or (cause if isinstance(cause, BaseException) else None)


def _failure_name(spec: StageSpec) -> str:
    return f"attempts/start-{spec.session}.error"


def _as_facts(error: Exception) -> dict[str, str]:
    if isinstance(error, UserError):
        return {"what": error.what, "where": error.where, "hint": error.hint}
    return {"what": f"a stage cannot start: {type(error).__name__}: {error}"}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
