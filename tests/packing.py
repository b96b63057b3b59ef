"""Units without models, in stores in memory, and what compaction makes of them."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.compaction import Compaction, Tally
from pipeline.records import OK, Candidate, UnitRow
from pipeline.units import UnitStore

SCORERS = ("aesthetic",)
UNITS = [f"ab{number:030x}" for number in range(5)]
FRESH = itertools.count()


def row(unit: str, prompt: str = "a hill", status: Any = OK) -> UnitRow:
    candidate = Candidate(
        candidate_id=f"c{unit}",
        generator="mad",
        seed=1,
        image={"bytes": f"picture of {prompt}".encode() * 20, "path": "c.webp"},
        scores={"aesthetic": 0.5},
    )
    return UnitRow(
        unit_id=unit, prompt_id=f"p{unit}", parent_id="", prompt=prompt, status=status, config_hash="cfg",
        candidates=(candidate,),
    )  # fmt: skip


def store_in(storage: Storage | str) -> UnitStore:
    return UnitStore(storage if isinstance(storage, Storage) else Storage(storage), "cfg", SCORERS)


def fresh(units: list[str] = UNITS) -> UnitStore:
    """A store in memory with these units in files."""
    store = store_in(f"memory://packs-{next(FRESH)}")
    for unit in units:
        store.commit([row(unit, f"first {unit}")])
    return store


def compact(store: UnitStore) -> Tally:
    compaction = Compaction(store)
    return compaction(compaction.folders())


def contents(store: UnitStore, units: list[str] = UNITS) -> dict[str, pa.Table]:
    return {unit: store.read(unit) for unit in units}


def names(store: UnitStore) -> list[str]:
    return [name.rpartition("/")[2] for name in store.storage.list("units/")]


# Of UNITS, two a pack.
COMPACTED = [*(f"pack-00000{n}.parquet" for n in (1, 2)), f"{UNITS[4]}.parquet", "pack-000002.index"]
