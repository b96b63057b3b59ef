"""How many actors of each kind a cluster holds: the share of each lies on one node."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
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
NO_LIMIT = 1 << 40


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

    def __str__(self) -> str:
        generators, scorers = self.generators, self.scorers
        gpus = f", {generators.gpus:g} + {scorers.gpus:g} GPU each" if generators.gpus else ""
        growing = f", growing to {generators.most} and {scorers.most}" if self._grows else ""
        return f"up to {generators.size} generator and {scorers.size} scorer actors{gpus}{growing}"

    @property
    def _grows(self) -> bool:
        return self.generators.most > self.generators.size or self.scorers.most > self.scorers.size

    @classmethod
    def of_cluster(cls, settings: ResourceSettings, units: int = 1 << 40, *, texts: int = 0) -> Capacity:
        """The pools for the cluster that we are connected to, beside so many actors that ask for texts.

        UserError when not one actor of each kind fits.
        """
        nodes = staying_nodes()
        cpus, gpus = ([node["Resources"].get(what, 0.0) for node in nodes] for what in ("CPU", "GPU"))
        scorers = max(1, min(settings.scorer_actors, units))
        takes = _takes(settings, [node.get("Labels", {}) for node in nodes], cpus)
        by_gpu = _generators_by_gpu(settings, gpus, scorers, takes, cpus)
        most = min(settings.generator_actors or by_gpu, by_gpu if settings.generator_gpus else units, units)
        kept = RESERVED_CPUS + (texts + 2) * TEXT_CPUS * bool(texts)  # and those before and after them
        most = min(most, _generators_by_cpu(settings.actor_cpus, cpus, scorers, takes, kept))
        return cls(
            generators=Pool.of(settings, "generator", most, units),
            scorers=Pool.of(settings, "scorer", scorers, units),
            actor_cpus=settings.actor_cpus,
            in_flight=settings.in_flight,
        )


def staying_nodes() -> list[dict[str, Any]]:
    """The nodes on which an actor may begin: a node that drains is alive, and is given nothing new."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    draining = state.get_draining_nodes() or {}
    staying = [node for node in alive if node["NodeID"] not in draining]
    if leaving := len(alive) - len(staying):
        log.warning("%d of %d nodes are to be taken away: no actor begins there", leaving, len(alive))
    return staying


def _takes(
    settings: ResourceSettings, labels: Sequence[dict[str, str]], cpus: Sequence[float]
) -> list[tuple[bool, bool]]:
    """Whether each node may have generators, and scorers. UserError where none may or has CPUs for one."""
    columns = []
    for kind in ("generator", "scorer"):
        asked = getattr(settings, f"{kind}_label")
        labelled = [parse_label(asked).items() <= node.items() for node in labels]
        if not any(labelled):
            raise UserError(
                f"no node of the cluster has the label {asked}",
                f"resources.{kind}_label",
                "Nodes get theirs from `ray start --labels`.",
            )
        largest = max(count for count, may in zip(cpus, labelled, strict=True) if may)
        if settings.actor_cpus > largest + _EPSILON:
            raise UserError(
                f"a {kind} wants {settings.actor_cpus:g} logical CPUs, and the largest node for it has "
                f"{largest:g}",
                "resources.actor_cpus",
                "Give actors a smaller share; it is bookkeeping and limits nothing.",
            )
        columns.append(labelled)
    return list(zip(*columns, strict=True))


def _generators_by_cpu(
    share: float, cpus: Sequence[float], scorers: int, takes: Sequence[tuple[bool, bool]], kept: float
) -> int:
    """How many generators the nodes' CPUs hold beside the scorers and what is kept. UserError for none."""
    slots = _slots(cpus, share, kept)
    generators, others = (
        _slots([count for count, may in zip(cpus, takes, strict=True) if may[kind]], share) for kind in (0, 1)
    )
    if slots <= scorers or scorers > others:
        raise UserError(
            f"{sum(cpus):g} logical CPUs are too few for actors of {share:g} and the tasks that feed them",
            "resources.actor_cpus",
            "Give actors a smaller share; it is bookkeeping and limits nothing.",
        )
    return min(slots - scorers, generators)


def _slots(cpus: Sequence[float], share: float, kept: float = 0.0) -> int:
    """How many actors the nodes' CPUs hold if one node, or all together where none can, keeps some."""
    slots = [_times(count, share, NO_LIMIT) for count in cpus]
    lost = [
        own - _times(count - kept, share, NO_LIMIT)
        for own, count in zip(slots, cpus, strict=True)
        if count + _EPSILON >= kept
    ]
    if lost:
        return sum(slots) - min(lost)
    return min(sum(slots), _times(max(0.0, sum(cpus) - kept), share, NO_LIMIT))


def _generators_by_gpu(
    settings: ResourceSettings,
    nodes: list[float],
    scorers: int,
    takes: list[tuple[bool, bool]] | None = None,
    cpus: Sequence[float] | None = None,
) -> int:
    """How many generators the nodes' GPUs hold beside the scorers: an actor's share lies on one node.

    `takes` says of each node whether it may have generators, and scorers, `cpus` how many logical CPUs it has
    for them. UserError where no node has what one actor wants, or no room is left for both kinds.
    """
    generator, scorer = settings.generator_gpus, settings.scorer_gpus
    takes = takes or [(True, True)] * len(nodes)
    slots = [_times(count, settings.actor_cpus, NO_LIMIT) for count in cpus or [math.inf] * len(nodes)]
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
    most = [
        min(_times(node, generator), room) * may[0]
        for node, room, may in zip(nodes, slots, takes, strict=True)
    ]
    while sum(most):
        left = sum(
            min(_times(node - used * generator, scorer), room - used)
            for node, used, room, may in zip(nodes, most, slots, takes, strict=True)
            if may[1]
        )
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


def _times(whole: float, share: float, without: int = 0) -> int:
    """How often a share goes into a whole; `without`: what it is where there is no share."""
    return int(min(whole / share + _EPSILON, NO_LIMIT)) if share else without
