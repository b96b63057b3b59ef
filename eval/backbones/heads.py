"""Aesthetic heads on a CLIP embedding: LAION's linear and MLP predictors, read safely and checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drspo.errors import UserError
from drspo.registry import package_folder

PLAIN_LAYERS = (0, 2, 4, 6, 7)
"""Indices of the linear layers in LAION's v2 MLP without activation (dropout stands between them)."""
RELU_LAYERS = (0, 3, 6, 9, 11)
"""The same in the variant trained with ReLU, where activations take a place of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """A published head: where its file lies and what it belongs to."""

    repo: str
    file: str
    sha256: str
    backbone: str


HEADS = {
    "laion-v2-linear": HeadSpec(
        repo="camenduru/improved-aesthetic-predictor",
        file="sac+logos+ava1-l14-linearMSE.pth",
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        backbone="vit_l_14",
    ),
    "miniature": HeadSpec(
        repo="package:miniature/weights/aesthetic", file="", sha256="", backbone="miniature"
    ),
}


@dataclass(frozen=True, slots=True)
class Head:
    """A small network on a unit embedding: linear layers, with ReLU between them or without."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    relu: bool
    backbone: str
    """The backbone it was trained on where that is known, else empty."""
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

    def affine(self) -> tuple[np.ndarray, float]:
        """The one weight vector and bias that a head without activation collapses to."""
        if self.relu:
            raise ValueError("a head with ReLU is not affine")
        weight, bias = self.layers[0]
        for later_weight, later_bias in self.layers[1:]:
            weight, bias = later_weight @ weight, later_weight @ bias + later_bias
        return weight[0], float(bias[0])


def load_head(name: str) -> Head:
    """The head called `name`: a preset, or a .pth or .safetensors file of LAION's layout."""
    spec = HEADS.get(name)
    path = _resolve(name, spec)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if spec and spec.sha256 and digest != spec.sha256:
        raise UserError(
            f"the file of head {name!r} is not the published one", str(path), "delete it and fetch it again"
        )
    layers, relu = parse_layers(_tensors(path), str(path))
    backbone = spec.backbone if spec else backbone_of_file(path.name)
    return Head(layers, relu, backbone, digest[:16], name)


def backbone_of_file(name: str) -> str:
    """The backbone that a LAION file name gives away (`sa_0_4_vit_b_16_linear.pth` -> vit_b_16), or ''.

    Dimensions alone don't tell: a B/16 head fits B/32 embeddings and scores them with nonsense.
    """
    spelled = re.search(r"vit_([blh])_(\d\d)", name.lower())
    if spelled:
        return f"vit_{spelled[1]}_{spelled[2]}"
    short = re.search(r"-([blh])(14|16|32)-", name.lower())
    return f"vit_{short[1]}_{short[2]}" if short else ""


def check_fit(head: Head, dim: int, identity: str, backbone: str) -> None:
    """Nothing when `head` reads this backbone's embeddings; UserError otherwise."""
    if head.in_dim == dim and head.backbone in ("", identity):
        return
    expected = head.backbone or f"{head.in_dim}-dimensional embeddings"
    raise UserError(
        f"the head {head.source!r} does not fit the backbone {backbone!r}",
        f"the head expects {expected} ({head.in_dim} values), the backbone gives {identity} ({dim} values)",
        "choose the head that was trained on this backbone",
    )


def parse_layers(
    tensors: dict[str, np.ndarray], where: str
) -> tuple[tuple[tuple[np.ndarray, np.ndarray], ...], bool]:
    """The linear layers of a head file and whether ReLU is between them; UserError on another layout."""
    tensors = {key.removeprefix("layers."): value.astype(np.float64) for key, value in tensors.items()}
    if set(tensors) == {"weight", "bias"}:
        return ((tensors["weight"], tensors["bias"]),), False
    indices = tuple(sorted({int(key.split(".")[0]) for key in tensors if key.split(".")[0].isdigit()}))
    wanted = {f"{index}.{part}" for index in indices for part in ("weight", "bias")}
    if indices not in (PLAIN_LAYERS, RELU_LAYERS) or set(tensors) != wanted:
        raise UserError(
            "this file is not an aesthetic head of a known layout",
            where,
            f"expected weight and bias, or layers {PLAIN_LAYERS} or {RELU_LAYERS}, not {sorted(tensors)[:6]}",
        )
    layers = tuple((tensors[f"{index}.weight"], tensors[f"{index}.bias"]) for index in indices)
    return layers, indices == RELU_LAYERS


def _resolve(name: str, spec: HeadSpec | None) -> Path:
    if spec is None:
        if not Path(name).is_file():
            raise UserError(
                f"no aesthetic head {name!r}", "scorer head", f"a file, or one of {', '.join(HEADS)}"
            )
        return Path(name)
    if spec.repo.startswith("package:"):
        folder = package_folder(spec.repo)
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise UserError(f"the head {name!r} has no weights", str(folder), "run python -m miniature.fit")
        return found[0]
    return _download(name, spec)


def _download(name: str, spec: HeadSpec) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(spec.repo, spec.file))
    except Exception as error:  # the Hub client raises many classes; each means "not to be had"
        raise UserError(
            f"cannot fetch the aesthetic head {name!r}",
            f"{spec.repo}/{spec.file}: {type(error).__name__}",
            f"download {spec.file} by hand and give its path as the head",
        ) from error


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.float().numpy() for key, value in state.items()}
    except Exception as error:
        raise UserError(
            "cannot read the aesthetic head", str(path), f"is it a .pth or .safetensors file? ({error})"
        ) from error
