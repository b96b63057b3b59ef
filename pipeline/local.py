"""The in-process executor: the very stages of the cluster, one unit after the other, without Ray."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.candidates.actors import Commit, Generate, Score, StageSpec
from pipeline.candidates.guard import Guard
from pipeline.candidates.plan import todo, unit_payload
from pipeline.ideas.blocks import Texts

log = logging.getLogger(__name__)


def run_units(work: pa.Table | Texts, spec: StageSpec) -> Iterator[dict[str, Any]]:
    """Generate, score and commit each unit of the plan's rows, or of blocks; gives each one's summary."""
    if isinstance(work, Texts) and work.alone:
        for _ in work:
            pass
        return
    guard = Guard(Storage(spec.url), spec.guard, spec.session, on_deadline=restart)
    generate, score, commit = Generate(spec, guard), Score(spec, guard), Commit(spec)
    for units in ahead(work, spec) if isinstance(work, Texts) else [work]:
        for batch in units.to_batches(max_chunksize=256):
            for unit in batch.to_pylist():
                yield commit(score(generate(unit_payload(unit))))


def ahead(blocks: Texts, spec: StageSpec) -> Iterator[pa.Table]:
    """Each block's units that have no file yet; the next block is asked while this one is painted."""
    done, coming = spec.store().done(), iter(blocks)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ask") as asking:
        future = asking.submit(next, coming, None)
        while (units := future.result()) is not None:
            future = asking.submit(next, coming, None)
            yield todo(units, done)


def restart() -> None:
    """Begin this program anew in the same process: no thread that hangs in a model can be ended otherwise."""
    log.error("starting again from the last committed unit")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
