"""What the driver holds at the end of a run does not grow with it: three times the units, the same peak."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from benchmarks import simulated
from dataset_builder import build, gather
from dataset_builder.build import Build
from drspo.files import backends
from pipeline import tables, values
from pipeline.candidates.plan import PLAN_NAME
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.local import run_units
from pipeline.pairs import heaps, scores, whole
from pipeline.pairs.columns import Column, Score, claim_column, write_scores
from pipeline.records import PLAN_SCHEMA, PROMPT_SCHEMA
from pipeline.settings import ExportSettings, PairSettings
from pipeline.spill import Spill
from pipeline.tables import store_pieces
from tests.building import fake_config

IMAGES = 3


class AtOnce(Executor):
    """Threads that never run ahead: what is submitted is done before anything else is.

    How far threads get before the next look is the machine's affair, and would be measured instead.
    """

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Watched(simulated.Units):
    """Simulated units; at every seventh read it is looked at what is in memory.

    Buffers are powers of two, so that the looks find them at each of their heights.
    """

    looks: dict[str, int]

    def read(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        found = super().read(unit_id, columns)
        if self.reads.total() % 7 == 0:
            gc.collect()
            self.look("python", tracemalloc.get_traced_memory()[0])
            self.look("arrow", pa.total_allocated_bytes())
            frames = [one for one in gc.get_objects() if isinstance(one, pl.DataFrame)]
            self.look("frames", sum(int(frame.estimated_size()) for frame in frames))
        return found

    def look(self, what: str, size: int) -> None:
        self.looks[what] = max(size, self.looks.get(what, 0))


def looks(folder: Path, count: int, pairs: PairSettings) -> dict[str, int]:
    """The most of each kind of memory while the end of a run of so many units is made."""
    folder.mkdir()
    export = ExportSettings(ranking=True, shard_mb=120, row_group_mb=20)
    plain = replace(fake_config(folder, folder / "run", ["a castle on a hill"]), export=export)
    builder = Build(plain, run_units)
    builder._begin()
    store_pieces(builder.run, PROMPTS_NAME, PROMPT_SCHEMA, simulated.prompts(count))
    store_pieces(builder.run, PLAN_NAME, PLAN_SCHEMA, simulated.plan(count, builder.spec.config_hash))
    claim_column(builder.run, Column(name="extra", scorer="extra"))
    for start in range(0, count * IMAGES, 100):
        ids = [simulated.identity(n) for n in range(start, min(start + 100, count * IMAGES))]
        write_scores(builder.run, "extra", [Score(candidate_id=each, score=1.0) for each in ids])
    builder = Build(replace(plain, pairs=pairs), run_units)
    store = Watched(builder.run, builder.spec.config_hash, builder.spec.scorers, count, IMAGES)
    store.looks = {}
    builder.store = store
    tracemalloc.start()
    assert sum(builder().pairs.values()) >= count / 2
    tracemalloc.stop()
    return store.looks


@pytest.fixture
def frozen() -> Iterator[None]:
    """Looks see only what comes after this."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_three_times_the_units_take_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: None
) -> None:
    pairs = PairSettings(balance="equal_wins", normalise="zscore", validation_prompts=10)
    # Every buffer is full after three hundred units.
    monkeypatch.setattr(scores, "AT_ONCE", 32)
    monkeypatch.setattr(heaps, "ROWS_PER_PART", 96)
    monkeypatch.setattr(heaps, "_WAITING", 16)
    monkeypatch.setattr(tables, "ROWS", 128)
    monkeypatch.setattr(tables, "_READ", 32)
    monkeypatch.setattr(values, "RUN", 64)
    monkeypatch.setattr(values, "_LEAF", 64)
    monkeypatch.setattr(whole, "_FEW", 16)
    monkeypatch.setattr(backends, "_COPIED", 1024)
    monkeypatch.setattr(Spill.__init__, "__defaults__", (64,))
    for module in (build, gather, scores):
        monkeypatch.setattr(module, "ThreadPoolExecutor", AtOnce)
    looks(tmp_path / "first", 20, pairs)  # imports and caches
    few, many = looks(tmp_path / "few", 300, pairs), looks(tmp_path / "many", 900, pairs)
    # A unit's rows are 1300 bytes in Arrow, and more as objects; what is left of each are ids and counts.
    assert all(many[what] - few[what] < 600 * 300 for what in few), (few, many)
