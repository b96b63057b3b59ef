"""The in-process executor: the very stages of the cluster, one unit after the other, without Ray."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from drspo.files.storage import Storage
from pipeline.candidates.actors import Commit, Generate, Score, StageSpec
from pipeline.candidates.guard import Guard
from pipeline.candidates.plan import unit_payload

log = logging.getLogger(__name__)


def run_units(units: pa.Table, spec: StageSpec) -> Iterator[dict[str, Any]]:
    """Generate, score and commit each unit of the plan's rows; gives each one's summary."""
    guard = Guard(Storage(spec.url), spec.guard, spec.session, on_deadline=restart)
    generate, score, commit = Generate(spec, guard), Score(spec, guard), Commit(spec)
    for batch in units.to_batches(max_chunksize=256):
        for unit in batch.to_pylist():
            yield commit(score(generate(unit_payload(unit))))


def restart() -> None:
    """Begin this program anew in the same process: no thread that hangs in a model can be ended otherwise."""
    log.error("starting again from the last committed unit")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
