"""Rows to shards: where each one goes is decided from scores alone, then images are gathered in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from dataset_builder.layouts import PAIRS, RANKING, GetImage, form
from drspo.config import config_hash
from drspo.hashing import content_hash
from pipeline.records import COPIES, Candidate
from pipeline.settings import ExportSettings
from pipeline.shards import SPLITS, encode_shard, is_shard, shard_identity, shard_name
from pipeline.units import DamagedFile, UnitStore, unit_name

FORMAT = 2
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Shard:
    """One file to write: its name, and its rows in row groups."""

    name: str
    groups: tuple[pl.DataFrame, ...]
    identity: str


def export(
    store: UnitStore,
    plan: list[Shard],
    scorers: Sequence[str],
    settings: ExportSettings,
    on_shard: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write all shards of the plan, and give their names; shards that stand already are left alone.

    The same rows give the same bytes. Files of an earlier export with another number of shards go.
    Raises DamagedFile when an image's unit cannot be read.
    """
    get_image = _image_reader(store)
    for shard in plan:
        if shard_identity(store.storage, shard.name) != shard.identity:
            rows, schema = form(shard.name, scorers, settings)
            data = encode_shard(([*rows(group, get_image)] for group in shard.groups), schema, shard.identity)
            store.storage.write(shard.name, data)
        on_shard()
    names = [shard.name for shard in plan]
    for stale in [name for name in store.storage.list("export/") if is_shard(name) and name not in names]:
        store.storage.delete(stale)
    return names


def plan_shards(
    pairs: pl.DataFrame, groups: pl.DataFrame, candidates: pl.DataFrame, settings: ExportSettings
) -> list[Shard]:
    """All shards: rows stay in their order, and are cut where image bytes fill a shard."""
    tables = {PAIRS: with_bytes(pairs, candidates, settings.pickapic)}
    if settings.ranking:
        tables[RANKING] = group_bytes(groups, candidates)
    found = []
    for folder, table in tables.items():
        for split in SPLITS:
            shards = cut(table.filter(pl.col("split") == split), settings.shard_mb * MEGABYTE)
            names = (shard_name(folder, split, index, len(shards)) for index in range(len(shards)))
            found += [_shard(name, shard, settings) for name, shard in zip(names, shards)]
    return found


def _shard(name: str, rows: pl.DataFrame, settings: ExportSettings) -> Shard:
    # The tables are wide; what tells two exports apart is which images there are and what they scored.
    told = [column for column in rows.columns if column.endswith(("_id", "_ids", "score", "scores"))]
    facts = [repr(row) for row in rows.select(sorted(told)).iter_rows()]
    identity = content_hash(FORMAT, name, pa.__version__, config_hash(asdict(settings)), *facts)
    return Shard(name, tuple(cut(rows, settings.row_group_mb * MEGABYTE)), identity)


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


def cut(rows: pl.DataFrame, limit: int) -> list[pl.DataFrame]:
    """The rows in slices of at most `limit` image bytes each, at least one row each."""
    slices, start, filled = [], 0, 0
    for index, size in enumerate(rows["bytes"].to_list()):
        if index > start and filled + size > limit:
            slices.append(rows.slice(start, index - start))
            start, filled = index, 0
        filled += size
    if rows.height:
        slices.append(rows.slice(start))
    return slices


def _image_reader(store: UnitStore) -> GetImage:
    """Images by unit and candidate. Pairs are ordered by unit, so one unit in memory is enough."""

    @lru_cache(maxsize=1)
    def images(unit: str) -> dict[str, Candidate]:
        return {c.candidate_id: c for row in store.read_rows(unit) for c in row.candidates}

    def get(unit: str, candidate: str) -> dict[str, Any]:
        found = images(unit).get(candidate)
        if found is None or found.image is None:
            raise DamagedFile(unit_name(unit), f"candidate {candidate} or its image is missing")
        return found.image

    return get
