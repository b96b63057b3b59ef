"""The phases as one Ray Data graph, from blocks of ideas to committed units, on pools of actors.

Only text and finished, encoded images travel; no shuffle ever carries an image. A row that left the
graph is a committed file, so what a failure of the infrastructure takes along is made again, and
nothing else. Reading the source is the driver's, block by block into the run folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.candidates.actors import Generate, ScoreAndCommit, StageSpec
from pipeline.candidates.cluster import connect, quiet_data
from pipeline.candidates.notice import Notice, before_termination, is_lost
from pipeline.candidates.plan import todo, unit_payload
from pipeline.candidates.shares import TEXT_CPUS, Capacity, Pool
from pipeline.ideas.blocks import Texts, is_settled, read_blocks
from pipeline.ideas.flow import AskBlock, FinishBlock, ScreenBlock
from pipeline.ideas.shared_pace import Gate
from pipeline.settings import ResourceSettings

log = logging.getLogger(__name__)

Stage = Callable[[dict[str, Any]], Any]


def units_graph(units: pa.Table) -> Dataset:
    """The plan's rows as rows for the generators, lazily."""
    return _one_by_one(ray.data.from_arrow(units)).map(unit_payload, num_cpus=0.1)


def texts_graph(blocks: int, texts: Texts, spec: StageSpec, actors: int, gate: Any) -> Dataset:
    """Blocks of ideas to rows for the generators, lazily; to none where nothing is to be painted yet."""
    rows = _one_by_one(ray.data.from_items([{"block": number} for number in range(blocks)]))
    stages = (
        (ScreenBlock, (texts.spec,), 1),
        (AskBlock, (texts.spec, gate), actors),
    )
    for stage, arguments, size in stages:
        rows = rows.map(
            Actor,
            fn_constructor_args=(stage, spec, *arguments),
            compute=fixed(size, 1),
            num_cpus=TEXT_CPUS,
            **(beside_driver() if stage is ScreenBlock else {}),
        )
    finished = rows.flat_map(
        Actor,
        fn_constructor_args=(FinishBlock, spec, texts.spec, None if texts.alone else spec, gate),
        compute=fixed(1, 4),
        num_cpus=TEXT_CPUS,
        **beside_driver(),
    )
    return _one_by_one(finished)


def candidates_graph(units: Dataset, spec: StageSpec, capacity: Capacity) -> Dataset:
    """Rows for the generators to summaries of committed units, lazily."""
    models = ((Generate, capacity.generators), (ScoreAndCommit, capacity.scorers))
    rows = units
    for stage, pool in models:
        rows = rows.map(
            Actor,
            fn_constructor_args=(stage, spec, spec),
            compute=following(pool, capacity.in_flight),
            num_gpus=pool.gpus or None,
            num_cpus=capacity.actor_cpus,
            **({"label_selector": pool.label} if pool.label else {}),
        )
    return rows


def _one_by_one(rows: Dataset) -> Dataset:
    """A row per block: whoever is free takes the next."""
    return rows.repartition(target_num_rows_per_block=1)


def fixed(size: int, in_flight: int) -> ActorPoolStrategy:
    """Exactly `size` actors; rows are large, so few are queued at each."""
    return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=in_flight)


def following(pool: Pool, in_flight: int) -> ActorPoolStrategy:
    """Actors that become more as nodes come and all are busy, up to the pool's most; see `quiet_data`."""
    return ActorPoolStrategy(
        min_size=pool.least,
        initial_size=pool.size,
        max_size=pool.most,
        max_tasks_in_flight_per_actor=in_flight,
    )


def beside_driver() -> dict[str, Any]:
    """Options for an actor on the driver's node, if it has room.

    What knows of all blocks is then lost with the driver or not at all.
    """
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


class Actor:
    """A stage on an actor. What keeps it from starting is written down: Ray would pass on only its text.

    On a node that is to be taken away it ends what it is at and hands back what comes next.
    """

    def __init__(self, stage: Callable[..., Stage], spec: StageSpec, *arguments: Any) -> None:
        try:
            self.stage = stage(*arguments)
        except RayError:  # the gate was lost with its node, say: another start of the graph may do better
            raise
        except Exception as error:
            Storage(spec.url).write(_failure_name(spec), json.dumps(_as_facts(error)).encode())
            raise
        if isinstance(self.stage, Generate | ScoreAndCommit):
            self.stage.guard.on_node(ray.get_runtime_context().get_node_id(), is_lost)
            before_termination(self.stage.guard.excuse)
        # The finisher alone would lose what it has in its memory.
        self.notice = None if stage is FinishBlock else Notice(self._excuse)

    def __call__(self, row: dict[str, Any]) -> Any:
        with self.notice.work() if self.notice else nullcontext():
            return self.stage(row)

    def _excuse(self) -> None:
        if isinstance(self.stage, Generate | ScoreAndCommit):
            self.stage.guard.excuse()


class RayExecutor:
    """Runs units, or blocks of prompts and theirs, on Ray.

    The graph is started again for what is left after a failure of the infrastructure.
    """

    def __init__(self, resources: ResourceSettings) -> None:
        self.resources = resources

    def __call__(self, work: pa.Table | Texts, spec: StageSpec) -> Iterator[dict[str, Any]]:
        """The summary of each unit as it is committed; raises the stage's error once restarts are used up."""
        connect(self.resources)
        for attempt in range(self.resources.restarts + 1):
            try:
                yield from self._once(work, spec)
                if not isinstance(work, Texts) or is_settled(work.spec):
                    return
                raise RuntimeError("blocks of prompts were lost with their actor")
            except Exception as error:
                _raise_ours(error, spec)
                if attempt == self.resources.restarts:
                    raise
                log.warning("the graph failed (%s); starting it again for what is left", _first_line(error))
            if isinstance(work, Texts):
                continue
            work = todo(work, spec.store().done())
            if not work.num_rows:
                return

    def _once(self, work: pa.Table | Texts, spec: StageSpec) -> Iterator[dict[str, Any]]:
        quiet_data()
        graph = self._texts(work, spec) if isinstance(work, Texts) else self._units(work, spec)
        yield from graph.iter_rows()

    def _units(self, units: pa.Table, spec: StageSpec) -> Dataset:
        capacity = Capacity.of_cluster(self.resources, units.num_rows)
        log.info("%s", capacity)
        return candidates_graph(units_graph(units), spec, capacity)

    def _texts(self, work: Texts, spec: StageSpec) -> Dataset:
        blocks = read_blocks(work.spec, work.tell)
        actors = min(self.resources.text_actors, blocks)
        capacity: Capacity | None = None
        if work.painted:  # if only later: what cannot be had then is refused before a text is paid for
            capacity = Capacity.of_cluster(self.resources, texts=0 if work.alone else actors)
        log.info("%d blocks of prompts%s", blocks, f", {capacity}" if capacity else "")
        # As many waits at once as requests may be under way in all actors.
        waiting = max(1000, 2 * actors * work.spec.llm.concurrency)
        gate = (
            ray.remote(num_cpus=0)(Gate)
            .options(max_concurrency=waiting, **beside_driver())
            .remote(work.spec.llm, work.spec.url, actors)
        )
        rows = texts_graph(blocks, work, spec, actors, gate)
        return candidates_graph(rows, spec, capacity) if capacity and not work.alone else rows


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
