"""Pairs to shards: where each pair goes is decided from scores alone, then images are gathered in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from drspo.config import config_hash
from drspo.hashing import content_hash
from pipeline.records import Candidate, pair_schema, pickapic_schema
from pipeline.settings import ExportSettings
from pipeline.shards import SPLITS, encode_shard, is_shard, shard_identity, shard_name
from pipeline.units import DamagedFile, UnitStore, unit_name

DEFAULT, PICKAPIC = "export/data", "export/pickapic"
FORMAT = 1
MEGABYTE = 1_000_000

GetImage = Callable[[str, str], dict[str, Any]]


@dataclass(frozen=True)
class Shard:
    """One file to write: its name, and its pairs in row groups."""

    name: str
    groups: tuple[pl.DataFrame, ...]
    identity: str


def export(
    store: UnitStore,
    pairs: pl.DataFrame,
    candidates: pl.DataFrame,
    settings: ExportSettings,
    on_shard: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write all shards of both configs, and give their names; shards that stand already are left alone.

    The same pairs give the same bytes. Files of an earlier export with another number of shards go.
    Raises DamagedFile when an image's unit cannot be read.
    """
    plan = plan_shards(pairs, candidates, settings)
    get_image = _image_reader(store)
    for shard in plan:
        if shard_identity(store.storage, shard.name) != shard.identity:
            rows, schema = _form(shard.name, store.scorers)
            data = encode_shard(([*rows(group, get_image)] for group in shard.groups), schema, shard.identity)
            store.storage.write(shard.name, data)
        on_shard()
    names = [shard.name for shard in plan]
    for stale in [name for name in store.storage.list("export/") if is_shard(name) and name not in names]:
        store.storage.delete(stale)
    return names


def plan_shards(pairs: pl.DataFrame, candidates: pl.DataFrame, settings: ExportSettings) -> list[Shard]:
    """All shards of both configs: pairs stay in their order, and are cut where image bytes fill a shard."""
    sized = with_bytes(pairs, candidates)
    folders = [DEFAULT, PICKAPIC] if settings.pickapic else [DEFAULT]
    found = []
    for split in SPLITS:
        rows = sized.filter(pl.col("split") == split)
        shards = cut(rows, settings.shard_mb * MEGABYTE)
        for folder in folders:
            names = (shard_name(folder, split, index, len(shards)) for index in range(len(shards)))
            found += [_shard(name, shard, settings) for name, shard in zip(names, shards)]
    return found


def _shard(name: str, rows: pl.DataFrame, settings: ExportSettings) -> Shard:
    ids = rows["pair_id"].to_list()
    scores = [repr(value) for value in rows["chosen_score"].to_list() + rows["rejected_score"].to_list()]
    identity = content_hash(FORMAT, name, pa.__version__, config_hash(asdict(settings)), *ids, *scores)
    return Shard(name, tuple(cut(rows, settings.row_group_mb * MEGABYTE)), identity)


def with_bytes(pairs: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """The pairs with the bytes of their two images."""
    sizes = candidates.select("candidate_id", "image_bytes")
    for side in ("chosen", "rejected"):
        renamed = sizes.rename({"candidate_id": f"{side}_id", "image_bytes": f"{side}_bytes"})
        pairs = pairs.join(renamed, on=f"{side}_id", how="left", maintain_order="left")
    return pairs.with_columns(bytes=pl.col("chosen_bytes") + pl.col("rejected_bytes"))


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


def _form(name: str, scorers: Sequence[str]) -> tuple[Callable[..., Iterator[dict[str, Any]]], pa.Schema]:
    if name.startswith(PICKAPIC):
        return pickapic_rows, pickapic_schema()
    return pair_rows, pair_schema(scorers)


def pair_rows(pairs: pl.DataFrame, get_image: GetImage) -> Iterator[dict[str, Any]]:
    """The rows of the `default` config, images included."""
    for pair in pairs.iter_rows(named=True):
        images = {side: get_image(pair["unit_id"], pair[f"{side}_id"]) for side in ("chosen", "rejected")}
        yield {**pair, **images}


def pickapic_rows(pairs: pl.DataFrame, get_image: GetImage) -> Iterator[dict[str, Any]]:
    """The rows of the `pickapic` config. Which image stands first is a function of the pair's id."""
    for pair in pairs.iter_rows(named=True):
        sides = ["chosen", "rejected"]
        if int(pair["pair_id"][-1], 16) % 2:
            sides.reverse()
        first, second = sides
        yield {
            "caption": pair["prompt"],
            "jpg_0": get_image(pair["unit_id"], pair[f"{first}_id"]),
            "jpg_1": get_image(pair["unit_id"], pair[f"{second}_id"]),
            "label_0": float(first == "chosen"),
            "label_1": float(second == "chosen"),
            "model_0": pair[f"{first}_generator"],
            "model_1": pair[f"{second}_generator"],
            "image_0_uid": pair[f"{first}_id"],
            "image_1_uid": pair[f"{second}_id"],
            "ranking_id": int(pair["pair_id"][:15], 16),
            "has_label": True,
            "are_different": True,
            "best_image_uid": pair["chosen_id"],
        }


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
