"""Reading the scores of all units, without their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.candidates.answers import problem
from pipeline.records import DEAD, unit_schema
from pipeline.tables import give_back
from pipeline.units import DamagedFile, UnitStore

AT_ONCE = 512
"""Units whose facts are in memory together."""
_FACTS = (
    "candidate_id",
    "generator",
    "seed",
    "image_bytes",
    "height",
    "width",
    "scores",
    "rank",
    "seconds",
    "error",
)


def alive(candidates: pl.DataFrame) -> pl.DataFrame:
    """Those of a scan's candidates that can be paired: scored, and of a prompt that is not dead."""
    return candidates.filter((pl.col("status") != DEAD) & pl.col("scored"))


def read_facts(store: UnitStore, units: Iterable[str]) -> pl.DataFrame:
    """Every unit's facts, in the units' order, in memory. DamagedFile where one cannot be read."""

    def refuse(error: DamagedFile) -> None:
        raise error

    frames = [pl.DataFrame(pl.from_arrow(table)) for table in scan_tables(store, units, refuse)]
    return pl.concat([no_candidates(store.scorers), *frames])


def scan_tables(
    store: UnitStore, units: Iterable[str], on_damage: Callable[[DamagedFile], None], threads: int = 16
) -> Iterator[pa.Table]:
    """Every unit's facts, in the units' order, `AT_ONCE` at a time.

    Threads hide the latency of an object store.
    """
    with ThreadPoolExecutor(threads) as pool:
        for chunk in _chunks(units, AT_ONCE):
            rows: list[dict[str, Any]] = []
            for found in pool.map(lambda unit: _facts(store, unit), chunk):
                if isinstance(found, DamagedFile):
                    on_damage(found)
                else:
                    rows.extend(found)
            yield _table(rows, store.scorers)
            give_back()


def no_candidates(scorers: Sequence[str]) -> pl.DataFrame:
    """A scan of no units: its columns."""
    return pl.DataFrame(pl.from_arrow(_table([], scorers)))


def _facts(store: UnitStore, unit: str) -> list[dict[str, Any]] | DamagedFile:
    columns = ["unit_id", "prompt_id", "parent_id", "prompt", "status", "error", "config_hash"]
    nested = [f"candidates.list.element.{name}" for name in _FACTS]
    try:
        table = store.read(unit, columns + nested)
    except DamagedFile as error:
        return error
    return [row for group in table.to_pylist() for row in _flat(group)]


def _flat(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per candidate; a prompt that died before its first candidate still has one."""
    names = ("unit_id", "prompt_id", "parent_id", "prompt", "status")
    outer = {**{name: group[name] for name in names}, "group_error": group["error"]}
    for candidate in group["candidates"] or [dict.fromkeys(_FACTS)]:
        error = candidate["error"] or _not_finite(candidate["scores"])
        yield {**outer, **candidate, "error": error, "scored": candidate["scores"] is not None and not error}


def _not_finite(scores: dict[str, float] | None) -> str:
    """Why a stored score cannot be compared: units of earlier versions may hold infinities."""
    reason = problem(scores) if scores else ""
    return f"score: {reason}" if reason else ""


def _table(rows: Sequence[dict[str, Any]], scorers: Sequence[str]) -> pa.Table:
    element = unit_schema(scorers).field("candidates").type.value_type
    fields = [
        (name, pa.string())
        for name in ("unit_id", "prompt_id", "parent_id", "prompt", "status", "group_error")
    ]
    fields += [(name, element.field(name).type) for name in _FACTS]
    return pa.Table.from_pylist(list(rows), schema=pa.schema([*fields, ("scored", pa.bool_())]))


def _chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
