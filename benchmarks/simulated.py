"""Units that nobody painted: what a run's driver reads, made from a unit's number when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.records import OK, PLAN_SCHEMA, PROMPT_SCHEMA, candidate_type
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
        self.kind = candidate_type(scorers)
        indices = range(images)
        constant = {
            "generator": [("multidiffusion", "sdxl", "mad")[index % 3] for index in indices],
            "seed": list(indices),
            "image_bytes": [CLAIMED] * images,
            "height": [1024] * images,
            "width": [4096] * images,
            "scorer_versions": [None] * images,
            "rank": [1] * images,
            "seconds": [1.0] * images,
            "device": ["none"] * images,
            "error": [""] * images,
        }
        self.constant = {name: pa.array(each, self.kind.field(name).type) for name, each in constant.items()}

    def listing(self) -> tuple[UnitIds, list[str]]:
        """All of them."""
        return UnitIds(bytes.fromhex(identity(number)) for number in range(self.count)), []

    def read(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """The unit's table, or those columns of it, put together from arrays: cheap beside reading a file."""
        self.reads["facts" if columns else "images"] += 1
        number = number_of(unit_id)
        texts = {
            "unit_id": unit_id,
            "prompt_id": unit_id,
            "parent_id": "",
            "prompt": text(number),
            "status": OK,
            "error": "",
            "config_hash": self.config_hash,
            "code_version": "",
        }
        wanted = [name for name in texts if not columns or name in columns]
        candidates = self._candidates(number, bool(columns))
        return pa.table(
            [
                *(pa.array([texts[name]]) for name in wanted),
                pa.ListArray.from_arrays([0, self.images], candidates),
            ],
            [*wanted, "candidates"],
        )

    def _candidates(self, number: int, facts: bool) -> pa.StructArray:
        """The unit's candidates; their images only where more than facts is asked for."""
        names = [identity(number * self.images + index) for index in range(self.images)]
        scores = pa.array([int(name[:8], 16) / 2**32 for name in names])
        arrays = {
            **self.constant,
            "candidate_id": pa.array(names),
            "scores": pa.StructArray.from_arrays([scores] * len(self.scorers), list(self.scorers)),
        }
        if not facts:
            images = [{"bytes": name.encode(), "path": f"{name}.webp"} for name in names]
            arrays["image"] = pa.array(images, self.kind.field("image").type)
        fields = [field for field in self.kind if field.name in arrays]
        return pa.StructArray.from_arrays([arrays[field.name] for field in fields], fields=fields)
