"""Three pairs for the card, of large, middle and small margin: chosen above rejected, and their facts."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from drspo.files.parquet import open_parquet
from drspo.files.pictures import read_picture
from drspo.files.run import RunDir

SIDES = ("chosen", "rejected")
QUANTILES = (0.9, 0.5, 0.1)
_OF_SIDES = [f"{side}_{what}" for side in SIDES for what in ("generator", "score")]
_FACTS = ["pair_id", "prompt", "margin", *_OF_SIDES]
_LONGEST_SIDE = 1600


def example_pairs(run: RunDir, shards: list[str]) -> list[tuple[bytes, dict[str, Any]]]:
    """(WebP picture, facts) of the pairs at three quantiles of the margin."""
    return [pair_at(run, place) for place in _places(run, shards)]


def pair_at(run: RunDir, place: tuple[str, int, int]) -> tuple[bytes, dict[str, Any]]:
    """(WebP picture, facts) of the pair at a place: shard, row group, row in it."""
    name, group, index = place
    with run.open(name) as stream:
        table = open_parquet(stream, name).read_row_group(group, columns=[*_FACTS, *SIDES])
    row = table.slice(index, 1).to_pylist()[0]
    return _stacked(row), {key: row[key] for key in _FACTS}


def _places(run: RunDir, shards: list[str]) -> list[tuple[str, int, int]]:
    """(shard, row group, row in it) of each pair to show, none twice."""
    pairs = []
    for name in shards:
        with run.open(name) as stream:
            file = open_parquet(stream, name)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["pair_id", "margin"]).to_pylist()
                pairs += [(row["margin"], row["pair_id"], name, group, i) for i, row in enumerate(rows)]
    pairs.sort()
    picked = [pairs[min(int(q * len(pairs)), len(pairs) - 1)] for q in QUANTILES] if pairs else []
    return list(dict.fromkeys((name, group, index) for _, _, name, group, index in picked))


def _stacked(row: dict[str, Any]) -> bytes:
    images = [read_picture(row[side]["bytes"]) for side in SIDES]
    width, height = max(image.width for image in images), sum(image.height for image in images)
    sheet = Image.new("RGB", (width, height + 8), "white")
    sheet.paste(images[0], (0, 0))
    sheet.paste(images[1], (0, images[0].height + 8))
    sheet.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=88, method=4)
    return buffer.getvalue()
