"""What a publication consists of: the exact list of files, from a run folder or from a LoRA folder."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from dataset_builder.report.card import CONFIGS, card_files, check_licence, read_sources
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
# Everything under these names is ours: whatever a newer publication lacks is deleted there.
OWNED = {
    "dataset": ("README.md", "config.yaml", "assets/*", *(f"{folder}/*" for folder in CONFIGS.values())),
    "model": ("README.md", "*.safetensors", "drspo.json", "*.png", "samples/*"),
}
_LORA_FILES = ("README.md", "*.safetensors", "drspo.json", "*.png", "samples/*.png", "samples/*.webp")
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


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
        """Write the tree to a folder, made equal to it under the owned names; `link` avoids local copies."""
        for stale in self._stale(folder):
            stale.unlink()
        for path, data in self.small.items():
            _place(folder / path).write_bytes(data)
        for path, name in self.large.items():
            self._fetch(name, _place(folder / path), link)

    def _stale(self, folder: Path) -> Iterator[Path]:
        for file in sorted(folder.rglob("*")):
            path = file.relative_to(folder).as_posix()
            owned = any(fnmatch.fnmatch(path, pattern) for pattern in self.owned)
            if file.is_file() and owned and path not in self.small and path not in self.large:
                yield file

    def _fetch(self, name: str, target: Path, link: bool) -> None:
        local = self.storage.local_path(name)
        target.unlink(missing_ok=True)
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
    if storage.exists(LORA_WEIGHTS):
        return _lora(storage, repo_id, licence)
    manifest = storage.manifest()
    if manifest["program"] != "dataset_builder":
        hint = f"A run of dataset_builder, or a folder with {LORA_WEIGHTS}, can be published."
        raise UserError(f"this is a run of {manifest['program']!r}", where, hint)
    check_licence(licence)
    shards = [name for names in read_sources(storage).shards.values() for name in names]
    tree = Tree(
        "dataset",
        storage,
        card_files(storage, repo_id, licence),
        {n.removeprefix("export/"): n for n in shards},
    )
    return _checked(tree)


def _lora(storage: Storage, repo_id: str, licence: str) -> Tree:
    """A LoRA's weights, facts, card and pictures; never checkpoints, caches or logs."""
    names = [name for name in storage.list() if any(_matches(name, pattern) for pattern in _LORA_FILES)]
    if "README.md" not in names:
        raise UserError("this LoRA has no card (README.md)", storage.base, "Training writes it when it ends.")
    card = _lora_card(storage.read("README.md").decode(), repo_id, licence)
    small = {name: storage.read(name) for name in names if not name.endswith(".safetensors")}
    large = {name: name for name in names if name.endswith(".safetensors")}
    return _checked(Tree("model", storage, {**small, "README.md": card.encode()}, large))


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")


def _lora_card(text: str, repo_id: str, licence: str) -> str:
    """The card with its licence and with the repository in place of the folder."""
    found = _HEAD.match(text)
    head = yaml.safe_load(found[1]) if found else {}
    body = text[found.end() :] if found else text
    licence = check_licence(licence or head.get("license", ""))
    if head.get("license", licence) != licence:
        what = f"the card says {head['license']!r}, as the base model requires, and not {licence!r}"
        raise UserError(what, "--license", "Leave --license out to keep the card's.")
    head["license"] = licence
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{body.replace('THIS_FOLDER', repo_id)}"


def _checked(tree: Tree) -> Tree:
    """The tree, if no text in it holds a secret of this machine's environment."""
    for name, secret in secrets().items():
        for path, data in tree.small.items():
            if secret.encode() in data:
                raise UserError(
                    f"{path} would publish the value of {name}", hint="Remove it from the run's settings."
                )
    return tree


def secrets() -> dict[str, str]:
    """Values of the environment that look like credentials, by variable."""
    names = [name for name in os.environ if re.search(r"(TOKEN|SECRET|PASSWORD|KEY|KEY_ID)$", name)]
    return {name: os.environ[name] for name in names if len(os.environ[name]) >= 8}


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
