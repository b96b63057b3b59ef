"""Aesthetic heads on a CLIP embedding: LAION's linear and MLP predictors, read safely and checked.

A head belongs to the weights it was trained on, under whatever name they are loaded. Where both sides are
known, a wrong pair is refused; where the weights have no known name, the tower's shape must agree, and a
warning says that nothing more could be checked.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip

from drspo.errors import UserError
from eval.backbones.clip_open import OpenClip, tower_shape
from eval.backbones.files import Found, find

log = logging.getLogger(__name__)
PLAIN_LAYERS = (0, 2, 4, 6, 7)
"""Indices of the linear layers in LAION's v2 MLP without activation (dropout stands between them)."""
RELU_LAYERS = (0, 3, 6, 9, 11)
"""The same in the variant trained with ReLU, where activations take a place of their own."""
BACKBONE_KEY = "backbone_sha256"
"""In a safetensors head's metadata: the digest of the backbone's weights file."""

Layers = tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """A published head: where its file lies and, for a file that must not change, its digest."""

    repo: str
    file: str
    sha256: str = ""


HEADS = {
    "laion-v2-linear": HeadSpec(
        repo="camenduru/improved-aesthetic-predictor",
        file="sac+logos+ava1-l14-linearMSE.pth",
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    ),
    "miniature": HeadSpec(repo="package:miniature/weights/aesthetic", file="aesthetic.safetensors"),
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Which backbone weights a head was trained on, as far as it says; empty fields are unknown."""

    architecture: str = ""
    """open_clip's name without -quickgelu."""
    tag: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        return self.sha256[:16] or f"{self.architecture}:{self.tag}".strip(":") or "weights it does not name"


@dataclass(frozen=True, slots=True)
class Head:
    """A small network on a unit embedding: linear layers, with ReLU between them or without."""

    layers: Layers
    relu: bool
    trained_on: Weights
    hash: str
    source: str

    @property
    def in_dim(self) -> int:
        """The length of the embedding it reads."""
        return int(self.layers[0][0].shape[1])

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores [n] of unit vectors [n, in_dim], computed in float64."""
        values = np.asarray(embeddings, np.float64)
        for index, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if self.relu and index + 1 < len(self.layers):
                values = np.maximum(values, 0.0)
        return values[:, 0]


def load_head(name: str) -> Head:
    """The head called `name`: a name of HEADS, or a .pth or .safetensors file of LAION's layout."""
    spec = HEADS.get(name)
    found = _locate(name, spec)
    if spec and spec.sha256 and found.sha256 != spec.sha256:
        raise UserError(
            f"the file of head {name!r} is not the published one",
            str(found.path),
            "delete it and fetch it again",
        )
    tensors, metadata = _tensors(found.path)
    layers, relu = parse_layers(tensors, str(found.path))
    trained_on = Weights(sha256=metadata.get(BACKBONE_KEY, "")) if metadata else Weights()
    if not trained_on.sha256:
        trained_on = weights_of_file(found.path.name)
    return Head(layers, relu, trained_on, found.sha256[:16], name)


def weights_of_file(name: str) -> Weights:
    """The weights that a LAION file name gives away (`sa_0_4_vit_b_16_linear.pth`: OpenAI's ViT-B-16).

    Dimensions alone don't tell: a B/16 head fits B/32 embeddings and scores them with nonsense.
    """
    spelled = re.search(r"vit_([blh])_(\d\d)", name.lower()) or re.search(
        r"-([blh])(14|16|32)-", name.lower()
    )
    return Weights(f"ViT-{spelled[1].upper()}-{spelled[2]}", "openai") if spelled else Weights()


def check_fit(head: Head, backbone: OpenClip) -> None:
    """Nothing when `head` reads the embeddings of these weights; UserError otherwise.

    Warns where the weights' origin cannot be told from their name or digest.
    """
    wanted, digest = head.trained_on, backbone.weights.sha256
    if head.in_dim != backbone.dim:
        raise _misfit(head, backbone, f"it reads {head.in_dim} values, these give {backbone.dim}")
    if wanted.sha256:
        if wanted.sha256 != digest:
            raise _misfit(head, backbone, f"these weights have the digest {digest[:16]}")
        return
    if wanted.architecture and _shape(wanted.architecture) != backbone.shape:
        raise _misfit(head, backbone, f"this tower has (layers, width, patch) {backbone.shape}")
    if backbone.tag and wanted.tag and backbone.tag != wanted.tag:
        raise _misfit(head, backbone, f"these weights are {backbone.tag}'s")
    if not (backbone.tag and wanted.tag):
        log.warning(
            "The head %s was trained on %s; whether %s (sha256 %s) are these cannot be told from its name.",
            head.source,
            wanted,
            backbone.weights.path.name,
            digest[:16],
        )


def parse_layers(tensors: dict[str, np.ndarray], where: str) -> tuple[Layers, bool]:
    """The linear layers of a head file and whether ReLU is between them; UserError on anything else.

    Refused by name: other layouts, numbers that are none, layers that do not chain, more than one output.
    """
    tensors = {key.removeprefix("layers."): value.astype(np.float64) for key, value in tensors.items()}
    if set(tensors) == {"weight", "bias"}:
        layers: Layers = ((tensors["weight"], tensors["bias"]),)
        relu = False
    else:
        indices = tuple(sorted({int(key.split(".")[0]) for key in tensors if key.split(".")[0].isdigit()}))
        wanted = {f"{index}.{part}" for index in indices for part in ("weight", "bias")}
        if indices not in (PLAIN_LAYERS, RELU_LAYERS) or set(tensors) != wanted:
            raise UserError(
                "this file is not an aesthetic head of a known layout",
                where,
                f"expected weight, bias or layers {PLAIN_LAYERS} or {RELU_LAYERS}, not {sorted(tensors)[:6]}",
            )
        layers = tuple((tensors[f"{index}.weight"], tensors[f"{index}.bias"]) for index in indices)
        relu = indices == RELU_LAYERS
    _check_layers(layers, where)
    return layers, relu


def _check_layers(layers: Layers, where: str) -> None:
    width = None
    for number, (weight, bias) in enumerate(layers):
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise UserError(
                f"layer {number} of the aesthetic head is no linear layer",
                where,
                f"weight {weight.shape}, bias {bias.shape}",
            )
        if width is not None and weight.shape[1] != width:
            raise UserError(
                f"the layers of the aesthetic head do not chain: layer {number} reads {weight.shape[1]} "
                f"values, the one before gives {width}",
                where,
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise UserError(f"layer {number} of the aesthetic head holds NaN or infinity", where)
        width = weight.shape[0]
    if width != 1:
        raise UserError(f"the aesthetic head gives {width} numbers instead of one", where)


def _shape(architecture: str) -> tuple[object, ...] | None:
    config = open_clip.get_model_config(architecture)
    return tower_shape(config) if config else None


def _misfit(head: Head, backbone: OpenClip, because: str) -> UserError:
    return UserError(
        f"the head {head.source!r} does not fit the backbone {backbone.name!r}",
        f"it was trained on {head.trained_on}; {because}",
        "choose the head that was trained on these weights",
    )


def _locate(name: str, spec: HeadSpec | None) -> Found:
    if spec is not None:
        return find(spec.repo, (spec.file,), "aesthetic", setting="head")
    if not Path(name).expanduser().is_file():
        raise UserError(
            f"no aesthetic head {name!r}", "aesthetic.head", f"a file, or one of {', '.join(HEADS)}"
        )
    return Found(name, Path(name).expanduser())


def _tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(path), framework="numpy") as file:
                return {key: file.get_tensor(key) for key in list(file.keys())}, file.metadata() or {}
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.float().numpy() for key, value in state.items()}, {}
    except Exception as error:
        raise UserError(
            "cannot read the aesthetic head", str(path), f"is it a .pth or .safetensors file? ({error})"
        ) from error
