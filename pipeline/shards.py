"""Parquet shards of pairs: written deterministically, row groups cut by bytes; read back row by row.

The trainer imports this module, so nothing here imports ray or torch.
"""

from __future__ import annotations

import fnmatch
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.incomplete import refuse_incomplete
from drspo.files.parquet import DAMAGES, PIECEWISE, batch_rows, give_up, open_parquet
from drspo.files.storage import Storage
from pipeline.records import COPIES

SPLITS = ("train", "validation")
_SHARD = re.compile(r"(?P<split>[a-z]+)-\d{5}-of-\d{5}\.parquet")
_IDENTITY = b"drspo_export"


def shard_name(folder: str, split: str, index: int, count: int) -> str:
    """The path of a shard below the export, for example data/train-00000-of-00012.parquet."""
    return f"{folder}/{split}-{index:05d}-of-{count:05d}.parquet"


class ShardWriter:
    """A shard as Parquet, a row group after the other, to a file or a buffer.

    Image bytes are stored as they are (they are compressed already, and the Hub deduplicates them
    better so); the same rows give the same bytes. `identity` is kept in the schema's metadata.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, identity: str = "") -> None:
        metadata = {**(schema.metadata or {}), _IDENTITY: identity.encode()}
        self.schema = schema.with_metadata(metadata)
        text = [path for path in _leaf_paths(schema) if not (path.endswith(".bytes") or path in COPIES)]
        self.writer = pq.ParquetWriter(
            file,
            self.schema,
            compression=dict.fromkeys(text, "zstd"),
            use_dictionary=text,
            write_statistics=text,
            write_page_index=True,
            write_page_checksum=True,
        )

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add a row group."""
        self.writer.write_table(
            pa.Table.from_pylist(list(rows), schema=self.schema), row_group_size=len(rows)
        )

    def close(self) -> None:
        """End the file."""
        self.writer.close()

    def give_up(self) -> None:
        """End it without a care for the file."""
        give_up(self.writer)


def encode_shard(groups: Iterable[Sequence[dict[str, Any]]], schema: pa.Schema, identity: str = "") -> bytes:
    """A shard as Parquet bytes, one row group per group of rows, as `ShardWriter` writes it."""
    buffer = io.BytesIO()
    writer = ShardWriter(buffer, schema, identity)
    for rows in groups:
        writer.write(rows)
    writer.close()
    return buffer.getvalue()


def shard_identity(storage: Storage, name: str) -> str:
    """The identity that a stored shard was written with; empty when it is absent or not whole."""
    try:
        with storage.open(name) as stream:
            return (pq.read_schema(stream).metadata or {}).get(_IDENTITY, b"").decode()
    except (pa.ArrowException, OSError):
        return ""


def read_pairs(
    source: str, split: str = "train", columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a split, in their order, as dicts; images are {"bytes", "path"} dicts.

    `source` is a run folder, an export folder, its ranking folder, a Parquet file or a glob, local or
    an fsspec URL. Without `columns` there are all but the second copies of the images, which are for other
    programs. At most one row group is in memory. Raises UserError for a missing, truncated or foreign
    source, and for an export that was interrupted.
    """
    storage, names = find_shards(source, split)
    for name in names:
        yield from _rows(storage, name, list(columns) if columns else None)


def find_shards(source: str, split: str) -> tuple[Storage, list[str]]:
    """The storage and the names of a split's shards, in order. Raises UserError when there are none."""
    if "*" in source or source.endswith(".parquet"):
        return _by_pattern(source)
    storage = Storage(source)
    for folder in ("export/data/", "data/", ""):
        listed = [name for name in storage.list(folder) if "/" not in name.removeprefix(folder)]
        refuse_incomplete(storage, listed)
        found = [
            name
            for name in listed
            if (m := _SHARD.fullmatch(name.removeprefix(folder))) and m["split"] == split
        ]
        if found:
            return storage, complete(storage, found)
    raise UserError(f"there are no {split} shards of pairs", source, _advice(storage))


def complete(storage: Storage, names: list[str]) -> list[str]:
    """The names of a split's shards, when they are all that they say they are; else UserError."""
    expected = int(names[0].rpartition("-of-")[2].removesuffix(".parquet"))
    if len(names) != expected or len({name.rpartition("-of-")[2] for name in names}) != 1:
        raise UserError(
            f"the export has {len(names)} shards where their names promise {expected}",
            storage.url(names[0]),
            "It was interrupted. Run dataset_builder again with the same --out.",
        )
    return names


def _advice(storage: Storage) -> str:
    if storage.exists("run.json"):
        return "This run has no export yet: run dataset_builder again with the same --out."
    return "Give a run folder, its export folder, or a Parquet file."


def _by_pattern(source: str) -> tuple[Storage, list[str]]:
    fixed = source.partition("*")[0].rpartition("/")[0] or ("/" if source.startswith("/") else ".")
    storage = Storage(fixed)
    pattern = source.removeprefix(fixed).lstrip("/")
    listed = storage.list()
    names = fnmatch.filter(listed, pattern)
    if not names:
        raise UserError("no file matches", source)
    folders = {name.rpartition("/")[0] for name in names}
    refuse_incomplete(storage, (name for name in listed if name.rpartition("/")[0] in folders))
    return storage, names


def _open(storage: Storage, name: str, columns: list[str] | None) -> pq.ParquetFile:
    try:
        stream = storage.open(name)
    except FileNotFoundError as error:
        raise UserError("there is no such file", storage.url(name)) from error
    file = open_parquet(stream, storage.url(name), page_checksum_verification=True, **PIECEWISE)
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if missing:
        raise UserError(f"no column {', '.join(sorted(missing))} in this file", storage.url(name))
    return file


def _rows(storage: Storage, name: str, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    file = _open(storage, name, columns)
    columns = columns or without_copies(file.schema_arrow.names)
    try:
        for batch in file.iter_batches(batch_size=batch_rows(file, 8), columns=columns):
            yield from batch.to_pylist()
    except DAMAGES as error:
        raise UserError(f"this Parquet file is damaged: {error}", storage.url(name)) from error
    finally:
        file.close(force=True)


def without_copies(columns: Sequence[str]) -> list[str]:
    """The columns without those that only hold the images of others once more."""
    return [name for name in columns if name not in COPIES or "chosen" not in columns]


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """The dotted paths of all leaves, as Parquet names them."""
    return [path for field in schema for path in _below(field.name, field.type)]


def _below(path: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        parts = (kind.field(index) for index in range(kind.num_fields))
        return [leaf for part in parts for leaf in _below(f"{path}.{part.name}", part.type)]
    return _below(f"{path}.list.element", kind.value_type) if pa.types.is_list(kind) else [path]


def is_shard(name: str) -> bool:
    """Whether a file name has the form of a shard of ours."""
    return bool(_SHARD.fullmatch(name.rpartition("/")[2]))
