"""Rows to shards: where each one goes is decided from scores alone, then images are gathered in order.

Rows lie on disk between the passes: what is in memory of all of them is a few bytes each.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice

import polars as pl
import pyarrow as pa

from dataset_builder.gather import Shard, write_shards
from dataset_builder.layouts import CONFIGS, PAIRS, RANKING
from drspo.config import config_hash
from drspo.files.incomplete import is_mark, mark, unmark
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from pipeline.records import COPIES
from pipeline.settings import ExportSettings
from pipeline.shards import SPLITS, is_shard, shard_identity, shard_name
from pipeline.spill import Spill
from pipeline.units import UnitStore

FORMAT = 2
MEGABYTE = 1_000_000
_LOOKS = 16  # shards whose footers are read at once

Writer = Callable[[UnitStore, Iterable[Shard], Sequence[str], ExportSettings, Set[str]], Iterator[str]]
"""Writes shards, given also the names of those that stand; gives each one's name when it is stored."""


@dataclass
class Lane:
    """The rows of one layout and split, and how many form each row group of each shard."""

    folder: str
    split: str
    rows: Spill
    shards: list[list[int]] = field(default_factory=list)

    def cut(self, settings: ExportSettings) -> None:
        """Cut the rows where image bytes fill a shard or a row group; rows stay in their order."""
        sizes = (size for piece in self.rows for size in piece["bytes"].to_list())
        self.shards = cuts(sizes, settings.shard_mb * MEGABYTE, settings.row_group_mb * MEGABYTE)

    def names(self) -> list[str]:
        """The names of the lane's shards."""
        count = len(self.shards)
        return [shard_name(self.folder, self.split, index, count) for index in range(count)]

    def filled(self, settings: ExportSettings) -> Iterator[Shard]:
        """The shards with their rows, one after the other."""
        slices = sliced(self.rows, [sum(groups) for groups in self.shards])
        for name, groups, rows in zip(self.names(), self.shards, slices, strict=True):
            yield Shard(name, rows, tuple(groups), _identity(name, rows, settings))


class Lanes:
    """The rows of an export, by layout and split, in files without names that go when this is closed."""

    def __init__(self, storage: Storage, settings: ExportSettings) -> None:
        self.settings = settings
        folders = (PAIRS, RANKING) if settings.ranking else (PAIRS,)
        self.lanes = [Lane(folder, split, Spill(storage)) for folder in folders for split in SPLITS]

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self.lanes:
            lane.rows.file.close()

    def add(self, folder: str, rows: pl.DataFrame) -> None:
        """Add rows of a layout that have their `bytes`, in the order of their units."""
        for lane in self.lanes:
            if lane.folder == folder:
                lane.rows.add(rows.filter(pl.col("split") == lane.split))

    def cut(self) -> list[str]:
        """Cut all lanes, and give the names of all shards."""
        for lane in self.lanes:
            lane.cut(self.settings)
        return [name for lane in self.lanes for name in lane.names()]

    def shards(self) -> Iterator[Shard]:
        """All shards, in the order of the first units that they have rows of."""
        lanes = [lane.filled(self.settings) for lane in self.lanes]
        return heapq.merge(*lanes, key=lambda shard: str(shard.rows["unit_id"][0]))


def export(
    store: UnitStore,
    lanes: Lanes,
    names: Sequence[str],
    scorers: Sequence[str],
    write: Writer | None = None,
    on_shard: Callable[[], None] = lambda: None,
) -> bool:
    """Write the shards of the lanes, which have these names; those that stand already are left alone.

    The same rows give the same bytes. Files of an earlier export with another number of shards go. Before
    anything changes, the folders are marked; gives whether they are, which `conclude` ends.
    Raises DamagedFile when an image's unit cannot be read.
    """
    storage = store.storage
    listed = storage.list("export/")
    standing = {name for name in listed if is_shard(name)}
    if standing == set(names) and not _differ(storage, lanes.shards()):
        for _ in names:
            on_shard()
        return any(is_mark(name) for name in listed)
    for folder in sorted({name.rpartition("/")[0] for name in standing.union(names)}):
        mark(storage, folder)
    for _ in (write or write_here)(store, lanes.shards(), scorers, lanes.settings, standing):
        on_shard()
    for stale in standing - set(names):
        storage.delete(stale)
    return True


def conclude(storage: Storage) -> None:
    """Say that shards and all that is told of them are of one export."""
    for folder in sorted(set(CONFIGS.values())):
        unmark(storage, folder)


def _differ(storage: Storage, shards: Iterable[Shard]) -> bool:
    """Whether one of the shards, which all have a file, is not what stands there."""
    coming = iter(shards)
    with ThreadPoolExecutor(_LOOKS) as pool:
        while some := list(islice(coming, _LOOKS)):
            if not all(pool.map(partial(_stands, storage), some)):
                return True
    return False


def _stands(storage: Storage, shard: Shard) -> bool:
    return shard_identity(storage, shard.name) == shard.identity


def write_here(
    store: UnitStore,
    shards: Iterable[Shard],
    scorers: Sequence[str],
    settings: ExportSettings,
    standing: Set[str],
) -> Iterator[str]:
    """Write shards in this process; gives the name of each, also of those that stand."""
    kept: list[str] = []

    def missing() -> Iterator[Shard]:
        for shard in shards:
            if shard.name in standing and _stands(store.storage, shard):
                kept.append(shard.name)
            else:
                yield shard

    for name in write_shards(store, missing(), scorers, settings):
        yield from (*kept, name)
        kept.clear()
    yield from kept


def with_bytes(pairs: pl.DataFrame, candidates: pl.DataFrame, copies: bool) -> pl.DataFrame:
    """The pairs with the bytes of their two images, twice where there are copies of them."""
    sizes = candidates.select("candidate_id", "image_bytes")
    for side in ("chosen", "rejected"):
        renamed = sizes.rename({"candidate_id": f"{side}_id", "image_bytes": f"{side}_bytes"})
        pairs = pairs.join(renamed, on=f"{side}_id", how="left", maintain_order="left")
    times = len(COPIES) if copies else 1
    return pairs.with_columns(bytes=times * (pl.col("chosen_bytes") + pl.col("rejected_bytes")))


def group_bytes(groups: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """The groups with the bytes of all their images."""
    sizes = candidates.group_by("prompt_id").agg(bytes=pl.col("image_bytes").sum())
    return groups.join(sizes, on="prompt_id", how="left", maintain_order="left")


def cuts(sizes: Iterable[int], shard_limit: int, group_limit: int) -> list[list[int]]:
    """How many rows of these bytes each row group of each shard has: at most the limits, at least a row."""
    shards: list[list[int]] = []
    in_shard = in_group = 0
    for size in sizes:
        if not shards or in_shard + size > shard_limit:
            shards.append([0])
            in_shard = in_group = 0
        elif in_group + size > group_limit:
            shards[-1].append(0)
            in_group = 0
        shards[-1][-1] += 1
        in_shard, in_group = in_shard + size, in_group + size
    return shards


def sliced(pieces: Iterable[pl.DataFrame], heights: Iterable[int]) -> Iterator[pl.DataFrame]:
    """The rows of the pieces in slices of these heights."""
    coming, waiting, count = iter(pieces), list[pl.DataFrame](), 0
    for height in heights:
        while count < height:
            waiting.append(next(coming))
            count += waiting[-1].height
        whole = pl.concat(waiting)
        yield whole.head(height)
        waiting, count = [whole.tail(count - height)], count - height


def _identity(name: str, rows: pl.DataFrame, settings: ExportSettings) -> str:
    # The tables are wide; what tells two exports apart is which images there are and what they scored.
    told = [column for column in rows.columns if column.endswith(("_id", "_ids", "score", "scores"))]
    facts = [repr(row) for row in rows.select(sorted(told)).iter_rows()]
    return content_hash(FORMAT, name, pa.__version__, config_hash(asdict(settings)), *facts)
