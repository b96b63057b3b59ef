"""Squares and texts to unit vectors: loaded late, with a cache on disk."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from drspo.errors import UserError
from eval.backbones.cache import EmbeddingCache, image_key, text_key
from eval.backbones.clip_open import describe
from eval.backbones.files import Found
from eval.backbones.views import shown


class ClipSource(Protocol):
    """A CLIP described and not loaded, open_clip's (`clip_open`) or transformers' (`clip_transformers`)."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> Found: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def size(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def text_limit(self) -> int: ...

    def load(self, device: torch.device) -> tuple[Any, Any]: ...

    def tokenizer(self) -> Any: ...

    def count_tokens(self, tokenizer: Any, text: str) -> int: ...


class Backbone:
    """An image and text encoder that returns L2-normalised float32 vectors.

    It is loaded by the first picture or text that no cache knows, and freed by `release`. Embeddings are
    kept on disk where `cache` names a folder or URL, and the last few hundred in memory.
    """

    def __init__(
        self,
        source: ClipSource | str,
        device: str = "auto",
        batch_size: int = 32,
        cache: str = "",
        remember: int = 256,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} holds no picture", "batch_size", "1 or more")
        self.spec: Any = describe(source) if isinstance(source, str) else source
        self.device = choose_device(device)
        self.batch_size = batch_size
        self.size, self.dim = self.spec.size, self.spec.dim
        self.hash = self.spec.weights.sha256[:16]
        self.cache = EmbeddingCache(cache, self.hash)
        self._encoders: tuple[Any, Any] | None = None
        self._tokenizer: Any = None
        self._seen: OrderedDict[str, np.ndarray] = OrderedDict()
        self._remember = remember

    @property
    def encoders(self) -> tuple[Any, Any]:
        """(encode_image, encode_text), loaded by the first use."""
        if self._encoders is None:
            self._encoders = self.spec.load(self.device)
        return self._encoders

    @property
    def tokenizer(self) -> Any:
        """Texts to token ids; loaded by the first use."""
        if self._tokenizer is None:
            self._tokenizer = self.spec.tokenizer()
        return self._tokenizer

    def release(self) -> None:
        """Frees the networks and what is remembered; the next use loads them again."""
        self._encoders = None
        self._seen.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def embed_views(self, images: list[Image.Image], view: str) -> list[np.ndarray]:
        """Unit vectors [squares, dim] per image of what `view` shows, in common batches."""
        keys = [image_key(image, view) for image in images]
        found = {key: vectors for key in keys if (vectors := self._known(key)) is not None}
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        squares = {key: shown(image, view, self.size) for key, image in fresh.items()}
        vectors = self.embed_squares([square for group in squares.values() for square in group])
        start = 0
        for key, group in squares.items():
            found[key] = vectors[start : start + len(group)]
            self.cache.put(key, found[key])
            start += len(group)
        self._keep(found)
        return [found[key] for key in keys]

    def embed_squares(self, squares: list[Image.Image]) -> np.ndarray:
        """Unit vectors [n, dim] of squares that already have the backbone's size."""
        batches = (squares[at : at + self.batch_size] for at in range(0, len(squares), self.batch_size))
        done = [self._encode(0, self._pixels(batch)) for batch in batches]
        return np.concatenate(done) if done else np.zeros((0, self.dim), np.float32)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [n, dim] of texts, cut at `spec.text_limit` tokens (see `cut`)."""
        keys = [text_key(text) for text in texts]
        found = {key: vector for key in keys if (vector := self._known(key)) is not None}
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        for at in range(0, len(fresh), self.batch_size):
            some = dict(list(fresh.items())[at : at + self.batch_size])
            vectors = self._encode(1, self.tokenizer(list(some.values())))
            for key, vector in zip(some, vectors, strict=True):
                found[key] = vector
                self.cache.put(key, vector)
        self._keep(found)
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, self.dim), np.float32)

    def token_counts(self, texts: list[str]) -> list[int]:
        """How many tokens each text has before it is cut, start and end included."""
        return [self.spec.count_tokens(self.tokenizer, text) for text in texts]

    def _pixels(self, squares: list[Image.Image]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([np.asarray(square, np.float32) for square in squares]) / 255.0)
        mean, std = torch.tensor(self.spec.mean), torch.tensor(self.spec.std)
        return ((pixels - mean) / std).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _encode(self, which: int, values: torch.Tensor) -> np.ndarray:
        vectors = self.encoders[which](values.to(self.device)).float().cpu().numpy()
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    def _known(self, key: str) -> np.ndarray | None:
        if key in self._seen:
            return self._seen[key]
        stored = self.cache.get(key)
        return stored if stored is not None and stored.shape[-1] == self.dim else None

    def _keep(self, found: dict[str, np.ndarray]) -> None:
        for key, value in found.items():
            self._seen[key] = value
            self._seen.move_to_end(key)
        while len(self._seen) > self._remember:
            self._seen.popitem(last=False)


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" takes the GPU where there is one. UserError for an absent one."""
    from generate.models.family import choose_device as of_models

    return of_models(name)


@lru_cache(maxsize=16)
def load_backbone(name: str, device: str = "auto", batch_size: int = 32, cache: str = "") -> Backbone:
    """The backbone called `name` on `device`: one object per process, shared by all who ask alike."""
    return Backbone(name, device, batch_size, cache)
