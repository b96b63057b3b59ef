"""Preference pairs from our shards, our Hub dataset, or any pick-a-pic-shaped dataset, as one kind of row."""

import glob
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from drspo.errors import UserError
from drspo.hashing import content_hash

log = logging.getLogger(__name__)

PAIR_COLUMNS = ("prompt", "chosen", "rejected")
PICKAPIC_COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0")


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
    rows = _open(source, split, subset)
    for index, row in enumerate(rows):
        if index == 0:
            as_pair = _reader_of(row, source)
        try:
            yield as_pair(row, index)
        except Dropped as reason:
            yield str(row.get("pair_id") or row.get("ranking_id") or f"{split}-{index}"), reason


def has_split(source: str, split: str, subset: str = "") -> bool:
    """True when `source` names its splits and has at least one row in `split`; a plain file has only one
    part."""
    if _is_pattern(source):
        return False
    try:
        return next(iter(_open(source, split, subset)), None) is not None
    except (UserError, ValueError, FileNotFoundError):
        return False


def check_pair(row: PairRow, height: int, width: int, resize: str) -> None:
    """Raises `Dropped` for a row that cannot be trained on; reads only the pictures' headers.

    `resize="none"` accepts pictures of `height` x `width` pixels only. `resize="downscale"` also accepts
    larger ones of the same aspect. Nothing is ever cropped, padded or enlarged.
    """
    if not row.prompt.strip():
        raise Dropped("empty prompt")
    sizes = [_header(data, name).size for data, name in ((row.chosen, "chosen"), (row.rejected, "rejected"))]
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
        with Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB")
    except _BROKEN as error:
        raise Dropped(f"broken image: {error}") from error
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


_BROKEN = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def _header(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except _BROKEN as error:
        raise Dropped(f"{name}: broken image ({error})") from error


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
    """The encoded image in a cell: raw bytes, or datasets' struct of bytes and path."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return bytes(value["bytes"])
        path = Path(value.get("path") or "")
        if path.is_file():
            return path.read_bytes()
    raise Dropped(f"{name}: no image bytes")


def _open(source: str, split: str, subset: str) -> Iterator[dict[str, Any]]:
    """Raw rows of one split, whatever the source is."""
    local = Path(source)
    if not (_is_pattern(source) or local.exists() or "://" in source):
        return _hub(source, split, subset)
    if subset:
        hint = "give the files or the folder of that configuration instead, and leave --data.subset out"
        raise UserError("only a Hub dataset has configurations to choose from", "--data.subset", hint)
    if _is_pattern(source):
        return _parquet(source)
    if loose := _loose_files(local, split):
        return _parquet(loose)
    from pipeline.shards import read_pairs

    return iter(read_pairs(source, split=split))


def _is_pattern(source: str) -> bool:
    return source.endswith(".parquet") or glob.has_magic(source)


def _loose_files(folder: Path, split: str) -> str:
    """A glob over a plain folder of Parquet files; "" for anything else, our runs and exports included."""
    if not folder.is_dir() or any(
        (folder / name).exists() for name in ("run.json", "export", "data", "units")
    ):
        return ""
    if any(folder.glob(f"{split}*.parquet")):
        return str(folder / f"{split}*.parquet")
    return str(folder / "*.parquet") if split == "train" and any(folder.glob("*.parquet")) else ""


def _parquet(pattern: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet

    files = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not files or not Path(files[0]).exists():
        raise UserError("no Parquet file found", pattern)
    for name in files:
        try:
            with parquet.ParquetFile(name) as table:
                for batch in table.iter_batches(batch_size=16):
                    yield from batch.to_pylist()
        except OSError as error:
            raise UserError(f"not a readable Parquet file: {error}", name) from error
        except Exception as error:
            if type(error).__module__.startswith("pyarrow"):
                raise UserError(f"not a readable Parquet file: {error}", name) from error
            raise


def _hub(source: str, split: str, subset: str) -> Iterator[dict[str, Any]]:
    import datasets

    try:
        table = datasets.load_dataset(source, subset or None, split=split)
    except (
        ConnectionError,
        FileNotFoundError,
        ValueError,
        datasets.exceptions.DatasetNotFoundError,
    ) as error:
        hint = "a run folder, a Parquet file or a Hub dataset id; private ones need HF_TOKEN"
        raise UserError(f"cannot open the dataset: {error}", source, hint) from error
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return iter(table)
