"""Units that nobody painted: what a run's driver reads, made from a unit's number when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.records import OK, PLAN_SCHEMA, PROMPT_SCHEMA, Candidate, UnitRow, unit_table
from pipeline.units import UnitIds, UnitStore

CLAIMED = 1_000_000
"""Bytes that an image says it has, so that shards are cut as real ones are; it has a few."""
_STEP = 4096
_ODD, _ALL = 0x9E3779B97F4A7C15F39CC0605CEDC835, 1 << 128
_BACK = pow(_ODD, -1, _ALL)


def identity(number: int) -> str:
    """An id that looks drawn at random, and from which `number_of` finds the number."""
    return f"{(number + 1) * _ODD % _ALL:032x}"


def number_of(identity: str) -> int:
    """The number behind an id."""
    return int(identity, 16) * _BACK % _ALL - 1


def text(number: int) -> str:
    """A prompt of about the usual length."""
    return f"a wide open plain below a mountain range at dusk, in the distance lighthouse number {number}"


def prompts(count: int) -> Iterator[pa.Table]:
    """So many accepted prompts, a piece at a time."""
    empty = dict.fromkeys(PROMPT_SCHEMA.names, "")
    for start in range(0, count, _STEP):
        numbers = range(start, min(start + _STEP, count))
        rows = [{**empty, "prompt_id": identity(n), "text": text(n), "status": OK} for n in numbers]
        yield pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA)


def plan(count: int, config_hash: str) -> Iterator[pa.Table]:
    """Their plan, a prompt a unit, a piece at a time."""
    for start in range(0, count, _STEP):
        rows = [
            {
                "unit_id": identity(number),
                "position": number,
                "config_hash": config_hash,
                "prompts": [{"prompt_id": identity(number), "parent_id": "", "text": text(number)}],
            }
            for number in range(start, min(start + _STEP, count))
        ]
        yield pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


class Units(UnitStore):
    """A store in which all units of the plan stand; what is asked of it is counted."""

    def __init__(
        self, storage: Storage, config_hash: str, scorers: Sequence[str], count: int, images: int
    ) -> None:
        super().__init__(storage, config_hash, scorers)
        self.count, self.images = count, images
        self.reads: Counter[str] = Counter()

    def listing(self) -> tuple[UnitIds, list[str]]:
        """All of them."""
        return UnitIds(bytes.fromhex(identity(number)) for number in range(self.count)), []

    def read(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """The unit's table."""
        self.reads["facts" if columns else "images"] += 1
        number = number_of(unit_id)
        row = UnitRow(
            unit_id=unit_id,
            prompt_id=unit_id,
            parent_id="",
            prompt=text(number),
            status=OK,
            config_hash=self.config_hash,
            candidates=tuple(self._candidate(number, index) for index in range(self.images)),
        )
        return unit_table([row], self.scorers)

    def _candidate(self, number: int, index: int) -> Candidate:
        name = identity(number * self.images + index)
        facts: dict[str, Any] = {"height": 1024, "width": 4096, "seconds": 1.0, "device": "none"}
        return Candidate(
            candidate_id=name,
            generator=("multidiffusion", "sdxl", "mad")[index % 3],
            seed=index,
            image={"bytes": name.encode(), "path": f"{name}.webp"},
            image_bytes=CLAIMED,
            scores={scorer: int(name[:8], 16) / 2**32 for scorer in self.scorers},
            rank=1,
            **facts,
        )
