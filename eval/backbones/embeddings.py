"""CLIP backbones: squares and texts to unit vectors, each backbone loaded once per process."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from drspo.errors import UserError
from drspo.registry import package_folder
from eval.backbones.views import RESIZE_PATH, shown

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """Where a CLIP comes from, in open_clip's words."""

    architecture: str
    """open_clip's model name; a name ending in -quickgelu has the activation OpenAI's weights need."""
    pretrained: str = ""
    """open_clip's tag; empty for a folder or Hub id in `architecture`."""
    identity: str
    """The name that heads are matched against."""


BACKBONES = {
    "openai-vit-l-14": BackboneSpec(
        architecture="ViT-L-14-quickgelu", pretrained="openai", identity="vit_l_14"
    ),
    "openai-vit-b-32": BackboneSpec(
        architecture="ViT-B-32-quickgelu", pretrained="openai", identity="vit_b_32"
    ),
    "openai-vit-b-16": BackboneSpec(
        architecture="ViT-B-16-quickgelu", pretrained="openai", identity="vit_b_16"
    ),
    "miniature": BackboneSpec(architecture="package:miniature/weights/clip", identity="miniature"),
}


def backbone_spec(name: str) -> BackboneSpec:
    """The spec called `name`: a preset, an open_clip folder, a Hub id, or `architecture:pretrained`."""
    if name in BACKBONES:
        spec = BACKBONES[name]
        return (
            replace(spec, architecture=f"local-dir:{package_folder(spec.architecture)}")
            if (spec.architecture.startswith("package:"))
            else spec
        )
    if Path(name).is_dir():
        return BackboneSpec(architecture=f"local-dir:{name}", identity=Path(name).name)
    if ":" in name and not name.startswith(("hf-hub:", "local-dir:")):
        architecture, pretrained = name.split(":", 1)
        return BackboneSpec(
            architecture=needs_quick_gelu(architecture, pretrained), pretrained=pretrained, identity=name
        )
    if name.startswith(("hf-hub:", "local-dir:")):
        return BackboneSpec(architecture=name, identity=name)
    raise UserError(
        f"unknown backbone {name!r}",
        "scorer backbone",
        f"name one of {', '.join(BACKBONES)}, a folder in open_clip's format, hf-hub:OWNER/NAME, or "
        "ARCHITECTURE:PRETRAINED",
    )


def needs_quick_gelu(architecture: str, pretrained: str) -> str:
    """`architecture` with -quickgelu where `pretrained` is OpenAI's: a file of it loads silently wrong."""
    openai = pretrained == "openai" or "openai" in Path(pretrained).name.lower()
    return architecture if not openai or "quickgelu" in architecture else f"{architecture}-quickgelu"


class Backbone:
    """A loaded CLIP image and text encoder that returns L2-normalised float32 vectors.

    Embeddings of the last few hundred image views are kept, so that scorers that share a backbone
    (aesthetic score, repetition, CLIP score) pass each image through it once.
    """

    def __init__(self, name: str, device: str = "cpu", batch_size: int = 32, remember: int = 256) -> None:
        self.spec = backbone_spec(name)
        self.name, self.batch_size = name, batch_size
        self.device = torch.device(device)
        self.model, self.size, self.mean, self.std = _load(self.spec, self.device)
        self.hash = _weights_hash(self.model)
        self._tokenizer: Any = None
        self._seen: OrderedDict[str, np.ndarray] = OrderedDict()
        self._remember = remember

    @cached_property
    def dim(self) -> int:
        """The length of an embedding."""
        return int(self.embed_squares([Image.new("RGB", (self.size, self.size))]).shape[1])

    def embed_views(self, images: list[Image.Image], view: str) -> list[np.ndarray]:
        """Unit vectors [squares, dim] per image of what `view` shows; remembered by pixels and view."""
        keys = [_view_key(image, view) for image in images]
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._seen}
        squares = {key: shown(image, view, self.size) for key, image in fresh.items()}
        vectors = self.embed_squares([square for group in squares.values() for square in group])
        start = 0
        found = {key: self._seen[key] for key in keys if key in self._seen}
        for key, group in squares.items():
            found[key] = vectors[start : start + len(group)]
            start += len(group)
        self._keep(found)
        return [found[key] for key in keys]

    def embed_squares(self, squares: list[Image.Image]) -> np.ndarray:
        """Unit vectors [n, dim] of squares that already have the backbone's size."""
        return _unit(self._batches([_to_tensor(square, self.mean, self.std) for square in squares]))

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [n, dim] of texts, cut at the tokenizer's window."""
        if self._tokenizer is None:
            source = self.spec.architecture
            self._tokenizer = open_clip.get_tokenizer(source)
        tokens = self._tokenizer(list(texts)).to(self.device)
        return _unit(self.model.encode_text(tokens).float().cpu().numpy())

    @torch.no_grad()
    def _batches(self, tensors: list[torch.Tensor]) -> np.ndarray:
        done = [
            self.model.encode_image(torch.stack(tensors[at : at + self.batch_size]).to(self.device))
            .float()
            .cpu()
            for at in range(0, len(tensors), self.batch_size)
        ]
        return torch.cat(done).numpy() if done else np.zeros((0, 1), np.float32)

    def _keep(self, found: dict[str, np.ndarray]) -> None:
        for key, value in found.items():
            self._seen[key] = value
            self._seen.move_to_end(key)
        while len(self._seen) > self._remember:
            self._seen.popitem(last=False)


@lru_cache(maxsize=4)
def load_backbone(name: str, device: str = "cpu", batch_size: int = 32) -> Backbone:
    """The backbone called `name` on `device`, loaded once per process."""
    return Backbone(name, device, batch_size)


def _load(spec: BackboneSpec, device: torch.device) -> tuple[torch.nn.Module, int, list[float], list[float]]:
    try:
        model = open_clip.create_model(
            spec.architecture, pretrained=spec.pretrained or None, device=device, require_pretrained=True
        )
    except Exception as error:  # open_clip raises anything from RuntimeError to the Hub's own classes
        raise UserError(
            f"cannot load the CLIP backbone {spec.architecture} {spec.pretrained}".strip(),
            str(error).splitlines()[0] if str(error) else type(error).__name__,
            "check the name, the folder, or the network; a folder needs open_clip_config.json and "
            "open_clip_model.safetensors",
        ) from error
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else int(size)
    mean = list(getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
    std = list(getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD)
    return model.eval().requires_grad_(False), size, mean, std


def _to_tensor(square: Image.Image, mean: list[float], std: list[float]) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(square, np.float32) / 255.0).permute(2, 0, 1)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _view_key(image: Image.Image, view: str) -> str:
    digest = hashlib.blake2b(image.tobytes(), digest_size=16)
    digest.update(f"{image.size}{image.mode}{view}{RESIZE_PATH}".encode())
    return digest.hexdigest()


def _weights_hash(model: torch.nn.Module) -> str:
    """A short name of these very weights: a digest over each tensor's name, shape and first values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sample = tensor.detach().flatten()[:: max(1, tensor.numel() // 64)].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]
