"""Embeddings on disk, by what was embedded, by which weights, seen how: nothing is encoded twice."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from drspo.files.storage import Storage
from eval.backbones.views import RESIZE_PATH


class EmbeddingCache:
    """Arrays under `embeddings/<weights>/` of a folder or URL, shared by every metric with the same weights.

    An unreadable file counts as absent and is written anew. With an empty `url` nothing is kept.
    """

    def __init__(self, url: str, weights: str) -> None:
        self.storage = Storage(url) if url else None
        self.weights = weights

    def get(self, key: str) -> np.ndarray | None:
        """The array of this key, or None."""
        if self.storage is None:
            return None
        try:
            found = np.load(io.BytesIO(self.storage.read(self._name(key))), allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        return found if found.dtype == np.float32 and np.isfinite(found).all() else None

    def put(self, key: str, value: np.ndarray) -> None:
        """Keeps an array, whole or not at all."""
        if self.storage is not None:
            data = io.BytesIO()
            np.save(data, np.ascontiguousarray(value, np.float32), allow_pickle=False)
            self.storage.write(self._name(key), data.getvalue())

    def _name(self, key: str) -> str:
        return f"embeddings/{self.weights}/{key[:2]}/{key}.npy"


def image_key(image: Image.Image, view: str) -> str:
    """The key of an image under a view: its pixels, whatever file they came from."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=16)
    digest.update(f"{image.size}{image.mode}{view}{RESIZE_PATH}".encode())
    return digest.hexdigest()


def text_key(text: str) -> str:
    """The key of a text."""
    return hashlib.blake2b(b"text:" + text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
