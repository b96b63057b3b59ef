"""The frozen plan: which units there are, decided once, before the first image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from itertools import chain
from typing import Any

import pyarrow as pa

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.records import OK, PLAN_SCHEMA, unit_id
from pipeline.tables import read_pieces, regrouped, store_pieces

PLAN_NAME = "plan.parquet"


def make_plan(prompts: pa.Table, config_hash: str, prompts_per_unit: int = 1, first: int = 0) -> pa.Table:
    """The plan over the accepted prompts, in their order: a table of PLAN_SCHEMA, positions from `first` on.

    A unit's id depends on its prompts and on the configuration, never on block or worker layout.
    """
    if prompts_per_unit < 1:
        raise UserError(
            f"a unit holds at least one prompt, not {prompts_per_unit}", "candidates.prompts_per_unit"
        )
    batches = (_units(batch, config_hash, prompts_per_unit) for batch in _groups(prompts, prompts_per_unit))
    tables = [pa.Table.from_pylist(rows, schema=PLAN_SCHEMA) for rows in batches]
    plan = pa.concat_tables(tables) if tables else PLAN_SCHEMA.empty_table()
    positions = pa.array(range(first, first + plan.num_rows), pa.int64())
    return plan.set_column(1, PLAN_SCHEMA.field("position"), positions)


def _groups(prompts: pa.Table, size: int) -> Iterator[list[dict[str, str]]]:
    """The accepted prompts in slices of a whole number of units, so that memory stays flat."""
    chosen = prompts.filter(pa.compute.equal(prompts["status"], OK)).select(
        ["prompt_id", "parent_id", "text"]
    )
    step = max(1, 16384 // size) * size
    for start in range(0, chosen.num_rows, step):
        yield chosen.slice(start, step).to_pylist()


def _units(prompts: list[dict[str, str]], config_hash: str, size: int) -> list[dict[str, Any]]:
    groups = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    return [
        {
            "unit_id": unit_id((prompt["prompt_id"] for prompt in group), config_hash),
            "position": 0,
            "config_hash": config_hash,
            "prompts": group,
        }
        for group in groups
    ]


def plan_pieces(
    blocks: Iterable[Iterable[pa.Table]], config_hash: str, prompts_per_unit: int
) -> Iterator[pa.Table]:
    """The same plan, piece by piece, of blocks of prompts that come in pieces; a unit ends with its block."""
    first = 0
    for prompts in blocks:
        accepted = (piece.filter(pa.compute.equal(piece["status"], OK)) for piece in prompts)
        for piece in regrouped(accepted, max(1, 16384 // prompts_per_unit) * prompts_per_unit):
            plan = make_plan(piece, config_hash, prompts_per_unit, first)
            first += plan.num_rows
            yield plan


def freeze_plan(storage: Storage, pieces: Iterable[pa.Table]) -> None:
    """Store the plan if there is none yet: the first copy of a job decides."""
    coming = iter(pieces)
    first = next((piece for piece in coming if piece.num_rows), None)
    if first is None:
        raise UserError(
            "no prompt was accepted, so there is nothing to generate",
            hint="`drspo status` shows why prompts were dropped.",
        )
    store_pieces(storage, PLAN_NAME, PLAN_SCHEMA, chain([first], coming))


def read_plan(storage: Storage) -> Iterator[pa.Table]:
    """The stored plan, a piece at a time. UserError when it is truncated or foreign: nothing replaces it."""
    return read_pieces(storage, PLAN_NAME, PLAN_SCHEMA)


def plan_names(storage: Storage) -> list[str]:
    """The tables that hold the plan: the whole one, or those of the blocks that are finished so far."""
    return [PLAN_NAME] if storage.exists(PLAN_NAME) else storage.list("phases/plan-")


def read_plan_so_far(storage: Storage) -> Iterator[pa.Table]:
    """The plan, or as much of it as there is while prompts are still made, a piece at a time."""
    for name in plan_names(storage):
        yield from read_pieces(storage, name, PLAN_SCHEMA)


def planned_hash(storage: Storage) -> str:
    """The hash of the configuration whose units are planned; UserError where none is planned yet."""
    for piece in read_plan_so_far(storage):
        if piece.num_rows:
            return str(piece["config_hash"][0].as_py())
    hint = "`drspo status` shows where it is."
    raise UserError("this run has no plan yet, so there are no units", storage.base, hint)


def todo(plan: pa.Table, done: Set[str]) -> pa.Table:
    """The units of the plan that have no file yet, in the plan's order."""
    missing = [unit not in done for unit in plan["unit_id"].to_pylist()]
    return plan.filter(pa.array(missing, pa.bool_()))


def unit_payload(unit: dict[str, Any]) -> dict[str, Any]:
    """A plan's row as what travels between the stages: ids, and its prompts as JSON."""
    return {"unit_id": unit["unit_id"], "prompts": json.dumps(unit["prompts"])}
