"""Tensors on disk by content, computed once and shared by runs: VAE latents, text embeddings, references."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.hashing import content_hash

Encoded = dict[str, torch.Tensor]


class TensorCache:
    """A folder of safetensors files named by content: `get` computes what is absent and counts hits and
    misses.

    Files appear whole or not at all, so runs and processes may share one folder without locks: two of them
    that compute the same entry write the same bytes.
    """

    def __init__(self, folder: Path, kind: str, encoder: str) -> None:
        self.folder = folder / kind / encoder
        self.counts: Counter[str] = Counter()

    def path(self, key: str) -> Path:
        """Where the entry `key` lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str, compute: Callable[[], Encoded]) -> Encoded:
        """The tensors of `key`, from disk or from `compute()`, which is then put there."""
        found = self.find(key)
        return self.put(key, compute()) if found is None else found

    def find(self, key: str) -> Encoded | None:
        """The tensors of `key`, or None where it is absent, or damaged, which is counted."""
        path = self.path(key)
        if path.exists():
            try:
                found = load_file(path)
                self.counts["hits"] += 1
                return found
            except (SafetensorError, OSError):
                self.counts["damaged"] += 1
        self.counts["misses"] += 1
        return None

    def put(self, key: str, tensors: Encoded) -> Encoded:
        """Writes an entry, in place of a damaged one too; gives its tensors as `find` will."""
        value = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        path = self.path(key)
        Storage(path.parent).write(path.name, save(value))
        return value

    def read(self, key: str) -> Encoded:
        """The tensors of an entry that must be there; `UserError` when somebody removed it."""
        try:
            return load_file(self.path(key))
        except (OSError, SafetensorError) as error:
            hint = "run the same command again: it computes what is missing"
            raise UserError(
                f"a cached entry is gone or damaged ({error})", str(self.path(key)), hint
            ) from error


def image_key(data: bytes, height: int, width: int, resize: str) -> str:
    """The name of a picture's latents: its encoded bytes and the preprocessing, nothing else."""
    return content_hash("image-v2", data, height, width, resize)


def text_key(prompt: str) -> str:
    """The name of a prompt's embeddings."""
    return content_hash("text-v1", prompt)


def cache_folder(configured: str) -> Path:
    """Where caches go: the configured folder, or else $DRSPO_CACHE, or else ~/.cache/drspo."""
    return Path(configured or os.environ.get("DRSPO_CACHE") or Path.home() / ".cache" / "drspo")
