"""What a compaction saves: files and requests of one of the 256 folders of a run, on a store that is counted.

A listing gives a thousand names a request, as object stores do. Units are simulated; a pack takes as many as
fit when each has 30 MB.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from typing import Any

from benchmarks import simulated
from dataset_builder.build import stage_spec
from dataset_builder.config import BuildConfig
from drspo.files.storage import Storage
from pipeline import packs
from pipeline.compaction import Compaction
from pipeline.pairs.scores import read_facts
from pipeline.records import OK, Candidate, UnitRow, unit_table
from pipeline.units import UnitStore, encode_unit, unit_name

FOLDER, FOLDERS = "ab", 256
PAGE = 1000
UNIT_BYTES = 30_000_000
READ = 1000  # units whose scores are read
_ASKED = ("find", "ls", "info", "cat_file", "pipe_file", "rm_file")


def compact(count: int) -> None:
    """Prints the counts before and after, for `count` units."""
    packs.MOST_UNITS = packs.MOST_BYTES // UNIT_BYTES + 1
    url = f"memory://compaction-{os.getpid()}"
    spec = stage_spec(BuildConfig(), url)
    storage, asked = Storage(url), Counter[str]()
    count_requests(storage._folder.filesystem, asked)  # type: ignore[attr-defined]
    units = [f"{FOLDER}{simulated.identity(number)[2:]}" for number in range(count)]
    for number, unit in enumerate(units):
        storage.write(
            unit_name(unit), encode_unit(unit_table([row(unit, number, spec.config_hash)], spec.scorers))
        )
    said = [state(spec.store(), units, asked)]
    asked.clear()
    compaction = Compaction(spec.store())
    tally = compaction(compaction.folders())
    spent = asked.total() / tally.files
    said.append(state(spec.store(), units, asked))
    print(f"compact: {count} units of a folder, which {FOLDERS * count:,} units in all have")
    for when, what in zip(("before", "after"), said):
        print(f"compact: {when:6} {what}")
    print(f"compact: {tally.files} files became {tally.packs} packs with {spent:.1f} requests a file")


def row(unit: str, number: int, config_hash: str) -> UnitRow:
    """A unit of six images of a few bytes."""
    candidates = (
        Candidate(
            candidate_id=simulated.identity(6 * number + index),
            generator="mad",
            seed=index,
            image={"bytes": b"picture", "path": "x.webp"},
            scores={"aesthetic": 0.5},
        )
        for index in range(6)
    )
    return UnitRow(
        unit_id=unit,
        prompt_id=unit,
        parent_id="",
        prompt=simulated.text(number),
        status=OK,
        config_hash=config_hash,
        candidates=tuple(candidates),
    )


def state(store: UnitStore, units: list[str], asked: Counter[str]) -> str:
    """How many files there are, and what who looks what is done, or reads scores, asks of the store."""
    files = len(store.storage.list("units/"))
    asked.clear()
    assert len(store.done()) == len(units)
    known = f"{asked['list']} listings and {asked['read']} reads tell what is done"
    asked.clear()
    read_facts(store, random.Random(0).sample(units, min(READ, len(units))))
    return f"{files} files, {known}, {asked['read'] / min(READ, len(units)):.1f} reads for a unit's scores"


def count_requests(filesystem: Any, asked: Counter[str]) -> None:
    """Count what is asked of a file system, a listing by its pages."""

    def counted(name: str) -> Any:
        real = getattr(filesystem, name)

        def call(*given: Any, **named: Any) -> Any:
            found = real(*given, **named)
            if name in ("find", "ls"):
                asked["list"] += max(1, math.ceil(len(found) / PAGE))
            else:
                asked["read" if name in ("info", "cat_file") else "write"] += 1
            return found

        return call

    for name in _ASKED:
        setattr(filesystem, name, counted(name))
