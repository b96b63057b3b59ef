"""Phases 2 to 4 as stages of a Ray Data graph: a block of prompts per row, as Parquet bytes.

`ScreenBlock` and `FinishBlock` are one actor each, since what is kept of a block depends on all earlier ones;
`AskBlock` is a pool. What a row carries may be lost: each stage stores what it made and finds it again.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import ray

from pipeline.candidates.actors import StageSpec
from pipeline.candidates.plan import todo, unit_payload
from pipeline.ideas.blocks import Ask, Finish, Screen, TextSpec
from pipeline.ideas.shared_pace import SharedPace
from pipeline.tables import from_parquet, parquet
from pipeline.units import UnitStore

Row = dict[str, Any]


class ScreenBlock:
    """{block} to {block, data}: its ideas with the objections that cost nothing."""

    def __init__(self, spec: TextSpec) -> None:
        spec.consent()
        self.screen = Screen(spec)

    def __call__(self, row: Row) -> Row:
        """The screened block."""
        return {"block": row["block"], "data": parquet(self.screen(row["block"]))}


class AskBlock:
    """{block, data} to the same with its prompts; rates of the language model are those of all actors."""

    def __init__(self, spec: TextSpec, gate: Any) -> None:
        spec.consent()
        self.gate: Any = gate if spec.filter.accept else None
        self.ask = Ask(spec, pace=lambda: SharedPace(gate, spec.llm.concurrency))

    def __call__(self, row: Row) -> Row:
        """The block's prompts, before duplicates are sought; no data where it may not be asked any more."""
        number = row["block"]
        gated = self.gate is not None and self.ask.is_needed(number)
        if gated and not ray.get(self.gate.may_ask.remote(number)):
            return {"block": number, "data": b""}
        return {"block": number, "data": parquet(self.ask(number, from_parquet(row["data"])))}


class FinishBlock:
    """{block, data} to the units that have no file yet; a block that comes early waits for the others."""

    def __init__(self, spec: TextSpec, units: StageSpec | None, gate: Any) -> None:
        spec.consent()
        self.finish, self.gate = Finish(spec), gate
        ray.get(gate.begin.remote())
        self.store: UnitStore | None = units.store() if units else None
        self.done = self.store.done() if self.store else set()
        self.early: dict[int, pa.Table | None] = {}

    def __call__(self, row: Row) -> list[Row]:
        """Rows for the generators, in the plan's order; none where nothing is to be painted yet."""
        self.early[row["block"]] = from_parquet(row["data"]) if row["data"] else None
        made: list[Row] = []
        for number in sorted(self.early):
            plan = self.finish(number, self.early[number])
            if plan is None:
                break
            del self.early[number]
            if self.store is not None:
                made += [unit_payload(unit) for unit in todo(plan, self.done).to_pylist()]
        self.gate.progress.remote(self.finish.next, self.finish.enough or self.finish.stopped)
        return made
