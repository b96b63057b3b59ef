"""Numbers of pictures, taken once: each batch is a Parquet file of its own in the run folder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, open_parquet
from drspo.files.pictures import read_picture
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from drspo.log import progress
from eval.base import about, is_number, release
from eval.benchmark.cells import Cell
from eval.benchmark.claims import Claims, share
from eval.benchmark.records import Record

_TEXTS = (
    "method",
    "prompt",
    "scorer",
    "unit",
    "view",
    "checkpoint",
    "checkpoint_hash",
    "version",
    "revision",
    "aggregate",
    "error",
)
FIELDS = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("seed", pa.int64()),
        ("text_limit", pa.int64()),
        ("higher_is_better", pa.bool_()),
        ("value", pa.float64()),
        ("picture", pa.string()),
    ]
)
"""The columns of a `Record` and the picture's digest, empty where it never changes."""

Number = tuple[float, str]
"""A number and, where it is NaN, the reason."""


class ScoreStore:
    """The numbers of one metric under `scores/<column>/<identity>/` of a run folder.

    The identity covers everything that changes a number (recipe, weights, view), so a change of weights takes
    new numbers and leaves the old ones where they are. A file is named by the pictures it covers.
    """

    def __init__(self, storage: Storage, column: str, metric: Any) -> None:
        self.storage = storage
        self._files: dict[str, list[dict[str, Any]]] = {}
        self.declared: dict[str, Any] = {
            "scorer": column,
            "unit": str(metric.unit),
            "view": str(metric.view),
            "checkpoint": str(metric.checkpoint),
            "checkpoint_hash": str(metric.checkpoint_hash),
            "higher_is_better": bool(metric.higher_is_better),
            "version": str(about(metric, "version")),
            "revision": str(about(metric, "revision")),
            "text_limit": int(about(metric, "text_limit")),
            "aggregate": str(about(metric, "aggregate")),
        }
        parts = (column, metric.name, self.declared["version"], metric.view, metric.checkpoint_hash)
        self.folder = f"scores/{column}/{content_hash(*map(str, parts), length=16)}"

    def load(self, digests: Mapping[Cell, str]) -> dict[Cell, Number]:
        """{cell: number} of what was measured so far; damaged files and other pictures count as absent.

        A file is read once: its name says what it covers.
        """
        found: dict[Cell, Number] = {}
        for name in self.storage.list(self.folder + "/"):
            if name not in self._files:
                data = io.BytesIO(self.storage.read(name))
                try:
                    open_parquet(data, name)  # a shared run may be somebody else's
                    data.seek(0)
                    table = pq.read_table(data, schema=FIELDS)
                except (UserError, *DAMAGES):
                    continue
                self._files[name] = table.to_pylist()
            for row in self._files[name]:
                cell = Cell(row["method"], row["prompt"], row["seed"])
                if row["picture"] == digests.get(cell, ""):
                    found[cell] = (row["value"], row["error"])
        return found

    def save(self, measured: Mapping[Cell, Number], digests: Mapping[Cell, str]) -> None:
        """Writes one batch. What failed is not written: the next run tries it again."""
        rows = [
            {**asdict(self.record(cell, *number)), "picture": digests.get(cell, "")}
            for cell, number in measured.items()
            if not number[1]
        ]
        if rows:
            names = [
                part for row in rows for part in (row["method"], row["prompt"], row["seed"], row["picture"])
            ]
            data = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, schema=FIELDS), data)
            self.storage.write(f"{self.folder}/{content_hash(*names, length=16)}.parquet", data.getvalue())

    def record(self, cell: Cell, value: float, error: str) -> Record:
        """The record of one number."""
        return Record(
            method=cell.method, prompt=cell.prompt, seed=cell.seed, value=value, error=error, **self.declared
        )


def measure(
    judges: Mapping[str, Any],
    cells: Sequence[Cell],
    read: Callable[[Cell], bytes],
    storage: Storage,
    *,
    batch: int = 16,
    digests: Mapping[Cell, str] | None = None,
    claims: Claims | None = None,
    blueprint: Callable[[Cell], bytes] | None = None,
) -> list[Record]:
    """Every metric's number of every picture, one metric in memory at a time; earlier numbers are kept.

    `read` gives a picture's file; `digests` its content's, where it may have changed since the last run;
    `blueprint` the file of its plan, or FileNotFoundError, for metrics that read it.
    Processes that work on one folder share the batches by `claims`; a number is taken once.
    """
    records = list[Record]()
    claims = claims or Claims(storage)
    with progress(len(judges) * len(cells), "numbers", "images") as bar:
        for place, (column, metric) in enumerate(judges.items()):
            store = ScoreStore(storage, column, metric)
            opened = partial(_opened, read, blueprint if about(metric, "needs_blueprint") else None)
            work = _Batches(store, metric, cells, opened, batch, digests or {})

            def present(work: _Batches = work, place: int = place) -> set[str]:
                finished = work.present()
                bar.set(place * len(cells) + len(work.known))
                return finished

            share(claims, list(work.parts), present, work.take)
            release(metric)
            records += [store.record(cell, *work.known[cell]) for cell in cells]
            bar.set((place + 1) * len(cells))
    return records


class _Batches:
    """One metric's pictures in batches, which are the same for every process, and what is known of them."""

    def __init__(
        self,
        store: ScoreStore,
        metric: Any,
        cells: Sequence[Cell],
        read: Callable[[Cell], Image.Image],
        batch: int,
        digests: Mapping[Cell, str],
    ) -> None:
        self.store, self.metric, self.read, self.digests = store, metric, read, digests
        groups = [list(cells[start : start + batch]) for start in range(0, len(cells), batch)]
        self.parts = {f"{store.folder}/{number:06d}": group for number, group in enumerate(groups)}
        self.failed: dict[Cell, Number] = {}
        self.known: dict[Cell, Number] = {}

    def present(self) -> set[str]:
        """The batches of which every picture has a number, or a reason that we have seen ourselves."""
        self.known = self.failed | self.store.load(self.digests)
        return {name for name, group in self.parts.items() if all(cell in self.known for cell in group)}

    def take(self, name: str) -> None:
        """The numbers that a batch still lacks."""
        fresh = _measured(self.metric, self.read, [c for c in self.parts[name] if c not in self.known])
        self.store.save(fresh, self.digests)
        self.failed |= {cell: number for cell, number in fresh.items() if number[1]}


def _opened(
    read: Callable[[Cell], bytes], blueprint: Callable[[Cell], bytes] | None, cell: Cell
) -> Image.Image:
    """The picture of a cell, with its blueprint in `info` where that is wanted and there."""
    image = read_picture(read(cell), "the file")
    if blueprint is not None:
        with contextlib.suppress(FileNotFoundError):
            image.info["blueprint"] = read_picture(blueprint(cell), "the blueprint")
    return image


def _measured(metric: Any, read: Callable[[Cell], Image.Image], some: Sequence[Cell]) -> dict[Cell, Number]:
    """The numbers of one batch; a picture that cannot be read fails alone."""
    images: dict[Cell, Image.Image] = {}
    found: dict[Cell, Number] = {}
    for cell in some:
        try:
            images[cell] = read(cell)
        except (UserError, FileNotFoundError) as error:
            found[cell] = (float("nan"), f"no picture: {str(error).splitlines()[0]}")
    values = metric.score(list(images.values()), [cell.prompt for cell in images]) if images else []
    for cell, value in zip(images, values, strict=True):
        number = float(value)
        reason = getattr(value, "reason", f"the scorer gave {number}")
        found[cell] = (number, "") if is_number(number) else (float("nan"), reason)
    return found
