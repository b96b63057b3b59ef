"""The export's layouts: which folder holds what, and how a chosen row becomes a stored one with its images.

`default` has the columns that TRL names (prompt, chosen, rejected) and those that diffusers' DPO scripts
read from a data set's first configuration (caption, jpg_0, jpg_1, label_0: plain bytes). `pickapic` is a view
of the same files with the second kind alone. `ranking` has whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.records import PICKAPIC, pair_schema, ranking_schema
from pipeline.settings import ExportSettings

PAIRS, RANKING = "export/data", "export/ranking"
CONFIGS = {"default": PAIRS, "pickapic": PAIRS, "ranking": RANKING}
"""The folder of each configuration in the run; publications have the same without `export/`."""

GetImage = Callable[[str, str], dict[str, Any]]
Rows = Callable[[pl.DataFrame, GetImage], Iterator[dict[str, Any]]]


def form(name: str, scorers: Sequence[str], settings: ExportSettings) -> tuple[Rows, pa.Schema]:
    """How the rows of the shard `name` are made, and their schema."""
    if name.startswith(RANKING):
        return ranking_rows, ranking_schema(scorers)
    rows = pickapic_rows if settings.pickapic else pair_rows
    return rows, pair_schema(scorers, settings.pickapic)


def columns_of(config: str, names: Sequence[str]) -> list[str]:
    """The columns of a configuration, of those that its files have."""
    return [name for name in names if config != "pickapic" or name in PICKAPIC]


def pair_rows(pairs: pl.DataFrame, get_image: GetImage) -> Iterator[dict[str, Any]]:
    """The pairs with their two images."""
    for pair in pairs.iter_rows(named=True):
        images = {side: get_image(pair["unit_id"], pair[f"{side}_id"]) for side in ("chosen", "rejected")}
        yield {**pair, **images}


def pickapic_rows(pairs: pl.DataFrame, get_image: GetImage) -> Iterator[dict[str, Any]]:
    """The pairs with Pick-a-Pic's columns beside. Which image stands first is a function of the pair's id."""
    for pair in pair_rows(pairs, get_image):
        sides = ["chosen", "rejected"]
        if int(pair["pair_id"][-1], 16) % 2:
            sides.reverse()
        first, second = sides
        yield {
            **pair,
            "caption": pair["prompt"],
            "jpg_0": pair[first]["bytes"],
            "jpg_1": pair[second]["bytes"],
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


def ranking_rows(groups: pl.DataFrame, get_image: GetImage) -> Iterator[dict[str, Any]]:
    """The groups with all their images, the best first."""
    for group in groups.iter_rows(named=True):
        yield {**group, "images": [get_image(group["unit_id"], each) for each in group["candidate_ids"]]}
