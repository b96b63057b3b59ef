"""Where pairs lie: runs and exports of the dataset builder, Parquet files, datasets on the Hub."""

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.hashing import content_hash
from train.pairs.tables import TABLES, table_rows


def open_source(source: str, split: str, subset: str = "") -> Iterator[dict[str, Any]]:
    """Raw rows of one split, whatever the source is: a run or export folder of the dataset builder, a Parquet
    file or glob, a CSV, JSONL or JSON file, a folder with one of them beside its pictures, or a Hub dataset
    id, of which `subset` names the configuration. The Hub's rows stream: what is not asked for is not
    downloaded.

    Raises `UserError` where it cannot be read."""
    local = Path(source)
    if not (_is_pattern(source) or local.exists() or "://" in source):
        return _hub(source, split, subset)
    if subset:
        hint = "give the files or the folder of that configuration instead, and leave --data.subset out"
        raise UserError("only a Hub dataset has configurations to choose from", "--data.subset", hint)
    if _is_pattern(source):
        return _parquet(source)
    if table := _table(local, split):
        return table_rows(table)
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
    for pattern in (f"{split}*.parquet", f"metadata-{split}*.parquet"):
        if any(folder.glob(pattern)):
            return str(folder / pattern)
    return str(folder / "*.parquet") if split == "train" and any(folder.glob("*.parquet")) else ""


def _table(place: Path, split: str) -> Path | None:
    """The CSV, JSONL or JSON file that lists the pictures of `split`: `place` itself, or one in that folder,
    named as the split is, or `metadata` as in datasets' imagefolder."""
    if place.is_file():
        return place if place.suffix in TABLES else None
    if not place.is_dir() or (place / "run.json").exists():
        return None
    names = [f"{split}{suffix}" for suffix in TABLES] + [f"{split}/metadata{suffix}" for suffix in TABLES]
    names += [f"metadata{suffix}" for suffix in TABLES] if split == "train" else []
    return next((place / name for name in names if (place / name).is_file()), None)


def picture_folders(source: str, split: str) -> list[Path]:
    """Where names of pictures in a local table are looked for: beside the table, and in the split's folder
    (HPDv2's names lack it). None for the Hub, and for runs of ours, which hold the pictures."""
    place = Path(source)
    if table := _table(place, split):
        home = table.parent
    elif _is_pattern(source):
        home = place.parent
    elif _loose_files(place, split):
        home = place
    else:
        return []
    return [] if glob.has_magic(str(home)) else [home, home / split]


def _parquet(pattern: str) -> Iterator[dict[str, Any]]:
    from drspo.files.incomplete import MARK, refuse_incomplete
    from drspo.files.parquet import PIECEWISE, batch_rows, open_parquet
    from drspo.files.storage import Storage
    from pipeline.shards import without_copies

    files = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not files or not Path(files[0]).exists():
        raise UserError("no Parquet file found", pattern)
    for folder in sorted({Path(name).parent for name in files}):
        refuse_incomplete(Storage(folder), [MARK] if (folder / MARK).exists() else [])
    for name in files:
        try:
            with open_parquet(name, name, **PIECEWISE) as table:
                wanted = without_copies(table.schema_arrow.names)
                for batch in table.iter_batches(batch_size=batch_rows(table, 16), columns=wanted):
                    yield from batch.to_pylist()
        except OSError as error:
            raise UserError(f"not a readable Parquet file: {error}", name) from error
        except Exception as error:
            if type(error).__module__.startswith("pyarrow"):
                raise UserError(f"not a readable Parquet file: {error}", name) from error
            raise


def _hub(source: str, split: str, subset: str) -> Iterator[dict[str, Any]]:
    import datasets

    from pipeline.shards import without_copies

    try:
        table = datasets.load_dataset(source, subset or None, split=split, streaming=True)
    except (
        ConnectionError,
        FileNotFoundError,
        ValueError,
        datasets.exceptions.DatasetNotFoundError,
    ) as error:
        hint = "a run folder, a Parquet file or a Hub dataset id; private ones need HF_TOKEN"
        raise UserError(f"cannot open the dataset: {error}", source, hint) from error
    if table.column_names:  # not known before the first row where the data set does not say
        table = table.select_columns(without_copies(table.column_names))
    return iter(table.decode(False))


def has_split(source: str, split: str, subset: str = "") -> bool:
    """True when `source` names its splits and has at least one row in `split`; a plain file has only one
    part."""
    if _is_pattern(source) or Path(source).is_file():
        return False
    try:
        return next(iter(open_source(source, split, subset)), None) is not None
    except (UserError, ValueError, FileNotFoundError):
        return False


def source_stamp(source: str) -> str:
    """A hash over names, sizes and times of a local source's tables: another one says that something
    may have changed. Empty for the Hub, for an address, and where nothing is left to look at."""
    place = Path(source)
    files = [Path(name) for name in glob.glob(source)] if glob.has_magic(source) else [place]
    if place.is_dir():
        files = list(place.rglob("*.parquet"))
        if not (place / "run.json").exists():
            files += [f for suffix in TABLES for depth in ("*", "*/*") for f in place.glob(depth + suffix)]
    facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files) if f.is_file()]
    return content_hash(json.dumps(facts)) if facts else ""
