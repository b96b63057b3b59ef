"""Scores in the run folder as Parquet: each batch is a file of its own, and no number is taken twice."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drspo.files.storage import Storage
from drspo.hashing import content_hash
from eval.base import about
from eval.cells import Cell
from eval.tables import Record

FIELDS = pa.schema(
    [
        ("method", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("scorer", pa.string()),
        ("unit", pa.string()),
        ("view", pa.string()),
        ("checkpoint", pa.string()),
        ("checkpoint_hash", pa.string()),
        ("higher_is_better", pa.bool_()),
        ("value", pa.float64()),
        ("version", pa.string()),
        ("revision", pa.string()),
        ("aggregate", pa.string()),
        ("error", pa.string()),
    ]
)
"""A record's columns (`eval.tables.Record`); a missing number is NaN with the reason in `error`."""


class ScoreStore:
    """The numbers of one metric under `scores/<column>/<identity>/` of a run folder.

    The identity covers everything that changes a number (recipe, weights, view), so a change of weights takes
    new numbers and leaves the old ones where they are. A file is named by the pictures it covers.
    """

    def __init__(self, storage: Storage, column: str, metric: Any) -> None:
        self.storage = storage
        self.declared: dict[str, Any] = {
            "scorer": column,
            "unit": str(metric.unit),
            "view": str(metric.view),
            "checkpoint": str(metric.checkpoint),
            "checkpoint_hash": str(metric.checkpoint_hash),
            "higher_is_better": bool(metric.higher_is_better),
            "version": str(about(metric, "version")),
            "revision": str(about(metric, "revision")),
            "aggregate": str(about(metric, "aggregate")),
        }
        parts = (column, metric.name, self.declared["version"], metric.view, metric.checkpoint_hash)
        self.folder = f"scores/{column}/{content_hash(*map(str, parts), length=16)}"

    def load(self) -> dict[Cell, tuple[float, str]]:
        """{cell: (number, reason there is none)} of everything measured so far; damaged files count as
        absent."""
        found: dict[Cell, tuple[float, str]] = {}
        for name in self.storage.list(self.folder + "/"):
            try:
                rows = pq.read_table(io.BytesIO(self.storage.read(name)), schema=FIELDS).to_pylist()
            except (pa.ArrowInvalid, OSError):
                continue
            for row in rows:
                found[Cell(row["method"], row["prompt"], row["seed"])] = (row["value"], row["error"])
        return found

    def save(self, measured: dict[Cell, tuple[float, str]]) -> dict[Cell, tuple[float, str]]:
        """Writes one batch and gives it back. What failed is not written: the next run tries it again."""
        rows = [asdict(self.record(cell, *value)) for cell, value in measured.items() if not value[1]]
        if rows:
            names = [part for row in rows for part in (row["method"], row["prompt"], row["seed"])]
            data = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, schema=FIELDS), data)
            self.storage.write(f"{self.folder}/{content_hash(*names, length=16)}.parquet", data.getvalue())
        return measured

    def record(self, cell: Cell, value: float, error: str) -> Record:
        """The record of one number."""
        return Record(
            method=cell.method, prompt=cell.prompt, seed=cell.seed, value=value, error=error, **self.declared
        )
