"""The Ray that a run uses: an existing cluster, or one of our own on this machine, and how to share it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import state

from drspo.errors import UserError
from pipeline.checks import parse_label
from pipeline.settings import ResourceSettings

log = logging.getLogger(__name__)

# Logical CPUs that actors never take: without one, the tasks that feed them starve, and the run hangs.
RESERVED_CPUS = 1.0
TEXT_CPUS = 0.1
_EPSILON = 1e-9


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors of one kind: how many there are at the start, between which bounds, and what each takes."""

    size: int
    least: int
    most: int
    gpus: float
    label: dict[str, str] = field(default_factory=dict)
    """of the nodes on which they may be"""

    @classmethod
    def of(cls, settings: ResourceSettings, kind: str, size: int, units: int = 1 << 40) -> Pool:
        """The pool of a kind, generator or scorer, with the size that fits now.

        It keeps exactly that size unless the settings let it grow, and never grows beyond the units.
        """
        wanted, asked_most = getattr(settings, f"{kind}_actors"), getattr(settings, f"max_{kind}s")
        most = min(asked_most, units) or size
        size = min(size, most)
        return cls(
            size=size,
            least=min(wanted or 1, size) if most > size else size,
            most=most,
            gpus=getattr(settings, f"{kind}_gpus"),
            label=parse_label(getattr(settings, f"{kind}_label")),
        )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many actors of each kind fit, and what each takes."""

    generators: Pool
    scorers: Pool
    actor_cpus: float
    in_flight: int
    text_actors: int = 0

    def __str__(self) -> str:
        generators, scorers = self.generators, self.scorers
        gpus = f", {generators.gpus:g} + {scorers.gpus:g} GPU each" if generators.gpus else ""
        growing = f", growing to {generators.most} and {scorers.most}" if self._grows else ""
        return f"up to {generators.size} generator and {scorers.size} scorer actors{gpus}{growing}"

    @property
    def _grows(self) -> bool:
        return self.generators.most > self.generators.size or self.scorers.most > self.scorers.size

    @classmethod
    def of_cluster(
        cls, settings: ResourceSettings, units: int = 1 << 40, *, blocks: int = 0, painting: bool = True
    ) -> Capacity:
        """The pools for the cluster that we are connected to. UserError when not one actor fits."""
        nodes = staying_nodes()
        scorers = max(1, min(settings.scorer_actors, units))
        gpus = [node["Resources"].get("GPU", 0.0) for node in nodes]
        takes = _takes(settings, [node.get("Labels", {}) for node in nodes])
        by_gpu = _generators_by_gpu(settings, gpus, scorers, takes)
        most = max(
            1, min(settings.generator_actors or by_gpu, by_gpu if settings.generator_gpus else units, units)
        )
        share, texts = settings.actor_cpus, min(settings.text_actors, blocks)
        cpus = sum(node["Resources"].get("CPU", 0.0) for node in nodes)
        free = cpus - RESERVED_CPUS - (texts + 2) * TEXT_CPUS * bool(blocks)
        if painting and free - scorers * share < share:
            raise UserError(
                f"{cpus:g} logical CPUs are too few for actors of {share:g} and the tasks that feed them",
                "resources.actor_cpus",
                "Give actors a smaller share; it is bookkeeping and limits nothing.",
            )
        size = min(most, int((free - scorers * share) / share)) if share else most
        return cls(
            generators=Pool.of(settings, "generator", size, units),
            scorers=Pool.of(settings, "scorer", scorers, units),
            actor_cpus=share,
            in_flight=settings.in_flight,
            text_actors=texts,
        )


def staying_nodes() -> list[dict[str, Any]]:
    """The nodes on which an actor may begin: a node that drains is alive, and is given nothing new."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    draining = state.get_draining_nodes() or {}
    staying = [node for node in alive if node["NodeID"] not in draining]
    if leaving := len(alive) - len(staying):
        log.warning("%d of %d nodes are to be taken away: no actor begins there", leaving, len(alive))
    return staying


def _takes(settings: ResourceSettings, labels: list[dict[str, str]]) -> list[tuple[bool, bool]]:
    """Whether each node may have generators, and scorers. UserError where no node has a label asked for."""
    columns = []
    for name in ("generator_label", "scorer_label"):
        label = parse_label(getattr(settings, name)).items()
        columns.append([label <= node.items() for node in labels])
        if not any(columns[-1]):
            raise UserError(
                f"no node of the cluster has the label {getattr(settings, name)}",
                f"resources.{name}",
                "Nodes get theirs from `ray start --labels`.",
            )
    return list(zip(*columns, strict=True))


def _generators_by_gpu(
    settings: ResourceSettings,
    nodes: list[float],
    scorers: int,
    takes: list[tuple[bool, bool]] | None = None,
) -> int:
    """How many generators the nodes' GPUs hold beside the scorers: an actor's share lies on one node.

    `takes` says of each node whether it may have generators, and scorers. UserError where no node has what
    one actor wants, or no room is left for both kinds.
    """
    generator, scorer = settings.generator_gpus, settings.scorer_gpus
    takes = takes or [(True, True)] * len(nodes)
    hint = "Without a GPU: --resources.generator-gpus 0 --resources.scorer-gpus 0."
    for name, share, place in (("generator", generator, 0), ("scorer", scorer, 1)):
        largest = max((node for node, may in zip(nodes, takes, strict=True) if may[place]), default=0.0)
        if share > largest + _EPSILON:
            raise UserError(
                f"a {name} wants {share:g} GPU, and the largest node of the cluster has {largest:g}",
                f"resources.{name}_gpus",
                hint,
            )
    if not generator:
        return 1
    most = [_times(node, generator) * may[0] for node, may in zip(nodes, takes, strict=True)]
    while sum(most):
        rest = [node - used * generator for node, used in zip(nodes, most, strict=True)]
        left = sum(_times(node, scorer) for node, may in zip(rest, takes, strict=True) if may[1])
        if not scorer or left >= scorers:
            return sum(most)
        # A generator gives way where a scorer may come.
        shared = [used * may[1] for used, may in zip(most, takes, strict=True)]
        if not any(shared):
            break
        most[shared.index(max(shared))] -= 1
    raise UserError(
        f"the cluster's GPUs ({', '.join(f'{node:g}' for node in nodes)} on its nodes) have no room for a "
        f"generator of {generator:g} beside {scorers} scorers of {scorer:g}",
        "resources.scorer_gpus",
        hint,
    )


def _times(whole: float, share: float) -> int:
    return int(whole / share + _EPSILON) if share else 0


def connect(settings: ResourceSettings) -> None:
    """Join the cluster at RAY_ADDRESS, or start a Ray of our own. UserError when it cannot be reached."""
    if ray.is_initialized():
        return
    # Ray puts its own handler in place, which ends with 15 and without a word.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _connect(settings)
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _connect(settings: ResourceSettings) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        _start_own(settings, quiet)
        return
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"no Ray cluster answers: {first}",
            f"RAY_ADDRESS={address}",
            "Start one with `ray start --head`, submit with `ray job submit`, or use --executor local.",
        ) from error


def _knock(address: str, patience: float = 10.0) -> None:
    """Raise OSError when nothing listens at host:port: Ray itself tries for minutes before it says so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _start_own(settings: ResourceSettings, quiet: dict[str, object]) -> None:
    store = settings.object_store_mb * 1_000_000 or default_object_store()
    # Shares of CPUs are bookkeeping; a small machine still needs room for the pools and their feeders.
    cpus = max(4, os.cpu_count() or 1)
    # On a busy machine Ray's agents take longer than the 30 s that it allows them.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    try:
        ray.init("local", num_cpus=cpus, object_store_memory=store, include_dashboard=False, **quiet)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Ray did not start on this machine: {first}",
            hint="It may be overloaded. --executor local needs no Ray; the same command continues.",
        ) from error


def default_object_store() -> int:
    """Bytes for the object store: at most 30 % of memory, 90 % of what /dev/shm has free, and 2 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    return int(min(0.3 * memory, 0.9 * shutil.disk_usage(shared).free, 2 * 2**30))


def quiet_data() -> None:
    """Leave the telling to us: no bars, tables and plans of Ray Data; a block that fails fails the graph."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    # Ray would add an actor when 1.75 units are queued at each, which at one in flight never happens; and it
    # would end half of a pool, models and all, whenever the next block of prompts is late.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    # What fails is raised to us, and told once.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logging.getLogger("ray").setLevel(logging.ERROR)
