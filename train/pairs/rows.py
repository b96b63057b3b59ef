"""Preference pairs from our shards, our Hub dataset, or any pick-a-pic-shaped dataset, as one kind of row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import picture_size, read_picture
from drspo.hashing import content_hash
from train.pairs.sources import has_split, open_source

__all__ = ["Dropped", "PairRow", "canvas_picture", "check_pair", "has_split", "read_rows"]

PAIR_COLUMNS = ("prompt", "chosen", "rejected")
PICKAPIC_COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0")
SAME = "chosen and rejected are the same picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One preference: a prompt and the encoded bytes of the picture preferred and of the other one."""

    pair_id: str
    prompt: str
    chosen: bytes
    rejected: bytes


class Dropped(Exception):
    """Why a row cannot be trained on; the run writes it to dropped.jsonl and goes on."""


def read_rows(source: str, split: str, subset: str = "") -> Iterator[PairRow | tuple[str, Dropped]]:
    """Every row of `source` in its own order: a `PairRow`, or (row id, `Dropped`) for a row without a
    preference.

    `source` is a run or export folder of the dataset builder, a Parquet file or glob, or a Hub dataset id,
    of which `subset` names the configuration.
    Raises `UserError` where the source cannot be read or has neither column layout.
    """
    if not source:
        raise UserError(
            "no pairs to train on", "--data.source", "a run folder, a Parquet file or a Hub dataset id"
        )
    rows = open_source(source, split, subset)
    for index, row in enumerate(rows):
        if index == 0:
            as_pair = _reader_of(row, source)
        try:
            yield as_pair(row, index)
        except Dropped as reason:
            yield str(row.get("pair_id") or row.get("ranking_id") or f"{split}-{index}"), reason


def check_pair(row: PairRow, height: int, width: int, resize: str) -> None:
    """Raises `Dropped` for a row that cannot be trained on; reads only the pictures' headers.

    `resize="none"` accepts pictures of `height` x `width` pixels only. `resize="downscale"` also accepts
    larger ones of the same aspect. Nothing is ever cropped, padded or enlarged.
    """
    if not row.prompt.strip():
        raise Dropped("empty prompt")
    if row.chosen == row.rejected:
        raise Dropped(SAME)
    sizes = [_size(data, name) for data, name in ((row.chosen, "chosen"), (row.rejected, "rejected"))]
    if sizes[0] != sizes[1]:
        raise Dropped(f"unequal sizes: chosen {_text(sizes[0])}, rejected {_text(sizes[1])}")
    if sizes[0] == (width, height):
        return
    said = f"{_text(sizes[0])} on a canvas of {_text((width, height))}"
    if resize == "none":
        raise Dropped(f"{said} and data.resize is none")
    if sizes[0][1] < height or sizes[0][0] < width:
        raise Dropped(f"{said}: smaller pictures are not enlarged")
    if sizes[0][1] * width != sizes[0][0] * height:
        raise Dropped(f"{said}: another aspect")


def canvas_picture(data: bytes, height: int, width: int) -> Image.Image:
    """The RGB picture in `data`, reduced with Lanczos to the canvas when it is larger; `Dropped` when it is
    broken."""
    try:
        picture = read_picture(data)
    except UserError as error:
        raise Dropped(f"broken image: {error.what}") from error
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _size(data: bytes, name: str) -> tuple[int, int]:
    try:
        return picture_size(data)
    except UserError as error:
        raise Dropped(f"{name}: broken image ({error.what})") from error


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _reader_of(row: Mapping[str, Any], source: str):
    if all(name in row for name in PAIR_COLUMNS):
        return _from_pair
    if all(name in row for name in PICKAPIC_COLUMNS):
        return _from_pickapic
    missing = [name for name in PAIR_COLUMNS if name not in row]
    raise UserError(
        f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}",
        source,
        f"a pairs dataset has {', '.join(PAIR_COLUMNS)} or {', '.join(PICKAPIC_COLUMNS)}; "
        f"this one has {', '.join(sorted(row))}",
    )


def _from_pair(row: Mapping[str, Any], index: int) -> PairRow:
    chosen, rejected = _bytes(row["chosen"], "chosen"), _bytes(row["rejected"], "rejected")
    pair_id = row.get("pair_id") or content_hash(row["prompt"] or "", chosen, rejected)
    return PairRow(pair_id=str(pair_id), prompt=row["prompt"] or "", chosen=chosen, rejected=rejected)


def _from_pickapic(row: Mapping[str, Any], index: int) -> PairRow:
    label = row["label_0"]
    if label is None or row.get("has_label") is False:
        raise Dropped("no label")
    if label not in (0, 1):
        raise Dropped("tie")
    first, second = _bytes(row["jpg_0"], "jpg_0"), _bytes(row["jpg_1"], "jpg_1")
    chosen, rejected = (first, second) if label == 1 else (second, first)
    caption = row["caption"] or ""
    pair_id = content_hash(caption, chosen, rejected)
    return PairRow(pair_id=pair_id, prompt=caption, chosen=chosen, rejected=rejected)


def _bytes(value: Any, name: str) -> bytes:
    """The encoded image in a cell: raw bytes, or those in datasets' struct of bytes and path."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return bytes(value["bytes"])
        if value.get("path"):  # of a stranger's data, it could be any file of this machine
            raise Dropped(f"{name}: a path instead of a picture, which is not followed")
    raise Dropped(f"{name}: no image bytes")
