"""What a publication consists of: the exact list of files, from a run folder or from a LoRA folder."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from dataset_builder.hub import lora
from dataset_builder.report.card import card_files, charts, read_sources
from drspo.errors import UserError
from drspo.files.lora import FILE
from drspo.files.parquet import open_parquet
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from drspo.leaving import refuse_secrets
from drspo.licences import check_licence
from eval import METRICS
from pipeline.shards import SPLITS

_DIGITS = "[0-9]" * 5
# pickapic/ is of publications by earlier versions.
_SHARDS = tuple(
    f"{folder}/{split}-{_DIGITS}-of-{_DIGITS}.parquet"
    for folder in ("data", "pickapic", "ranking")
    for split in SPLITS
)
_PICTURES = ("assets/pair-[0-9].webp", "assets/disputed.webp", "assets/margins.svg")
_CHARTS = tuple(f"assets/{chart}.svg" for chart in charts(METRICS).values())
OWNED = {
    "dataset": ("README.md", "config.yaml", "croissant.json", *_PICTURES, *_CHARTS, *_SHARDS),
    "model": lora.WRITTEN,
}
"""What a publication writes; whatever of it a newer one lacks is deleted there. Without `*`, which would also
match in the folders of others: here and for the Hub it goes across `/`."""


@dataclass(frozen=True)
class Tree:
    """Files to publish by their path in the repository: texts and pictures as bytes, large ones as names."""

    kind: Literal["dataset", "model"]
    storage: Storage
    small: Mapping[str, bytes]
    large: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.small) + len(self.large)

    @property
    def owned(self) -> list[str]:
        """Patterns of the repository's files that a publication may replace or delete."""
        return list(OWNED[self.kind])

    def write(self, folder: Path, link: bool = False) -> None:
        """Make the folder equal to the tree under the owned names; `link` avoids local copies.

        The files are gathered beside the folder and moved in when all are there, so that a full disk
        leaves the folder as it was. UserError when the folder and the source lie inside one another.
        """
        self._refuse_overlap(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
            gathered = Path(place)
            for path, data in self.small.items():
                _place(gathered / path).write_bytes(data)
            for path, name in self.large.items():
                self._fetch(name, _place(gathered / path), link)
            for stale in self._stale(folder):
                stale.unlink()
            for path in (*self.small, *self.large):
                os.replace(gathered / path, _place(folder / path))

    def _refuse_overlap(self, folder: Path) -> None:
        source = self.storage.local_path()
        if source is None:
            return
        one, other = folder.expanduser().resolve(), source.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise UserError(
                f"{folder} and {self.storage.base} lie inside one another",
                "--dry-run",
                "Choose a folder of its own: files of the run would be replaced.",
            )

    def _stale(self, folder: Path) -> Iterator[Path]:
        for file in sorted(folder.rglob("*")):
            path = file.relative_to(folder).as_posix()
            owned = any(fnmatch.fnmatchcase(path, pattern) for pattern in self.owned)
            if file.is_file() and owned and path not in self.small and path not in self.large:
                yield file

    def _fetch(self, name: str, target: Path, link: bool) -> None:
        local = self.storage.local_path(name)
        if local is not None and link:
            os.symlink(local, target)
        elif local is not None:
            shutil.copyfile(local, target)
        else:
            with self.storage.open(name) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 24)


def collect(where: str, repo_id: str, licence: str) -> Tree:
    """The publication of a run folder or of a LoRA folder. Raises UserError for anything else."""
    storage = RunDir(where)
    if storage.exists(FILE):
        small, large = lora.files(storage, repo_id, licence)
        return _checked(Tree("model", storage, small, large))
    manifest = storage.manifest()
    if manifest["program"] != "dataset_builder":
        hint = f"A run of dataset_builder, or a folder with {FILE}, can be published."
        raise UserError(f"this is a run of {manifest['program']!r}", where, hint)
    check_licence(licence)
    shards = sorted({name for names in read_sources(storage).shards.values() for name in names})
    large = {name.removeprefix("export/"): name for name in shards}
    return _checked(Tree("dataset", storage, card_files(storage, repo_id, licence), large))


def _checked(tree: Tree) -> Tree:
    """The tree, if no file of it holds a credential."""
    for path, data in tree.small.items():
        refuse_secrets(data, path)
    for path, name in tree.large.items():
        if path.endswith(".parquet"):
            refuse_secrets(_texts(tree.storage, name), path)
    return tree


def _texts(storage: Storage, name: str) -> bytes:
    """Every text of a shard and of its metadata; its pictures are what we encoded, and carry none."""
    with storage.open(name) as stream:
        file = open_parquet(stream, name)
        schema = file.schema_arrow
        columns = [field.name for field in schema if pa.types.is_string(field.type)]
        found = [*(schema.metadata or {}).values()]
        for batch in file.iter_batches(columns=columns):
            texts = {text for column in batch.columns for text in column.unique().to_pylist() if text}
            found += [text.encode() for text in texts]
    return b"\n".join(found)


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
