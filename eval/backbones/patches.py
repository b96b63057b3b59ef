"""A picture to a map of patch tokens, 32 high: by DINOv2 from the Hub or a folder, or by a CLIP's own tower.

A long picture is shown in squares that overlap by half, and the tokens of a place are averaged over the
squares that show it, those in whose middle it lies counting most.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb
from drspo.registry import package_folder
from eval.backbones import clip_open
from eval.backbones.embeddings import choose_device
from eval.backbones.files import HUB_ID, Found, find
from generate.models.quiet import quiet

ROWS = 32
"""Tokens of height of a map: coarser ones miss what is small (at 16 a sun is one token)."""
DINO = ("dinov2", "dinov2_with_registers")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tower(Protocol):
    """A network that gives a token for each patch of a square, described and not loaded."""

    @property
    def weights(self) -> Found: ...

    @property
    def patch(self) -> int: ...

    @property
    def side(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    def load(self, device: torch.device) -> Any:
        """A function from pixels [n, 3, side * patch, side * patch] to tokens [n, side, side, channels]."""
        ...


@dataclass(frozen=True)
class DinoTower:
    """DINOv2, with registers or without, in transformers' layout; its last tokens."""

    weights: Found
    folder: Path
    patch: int
    side: int = ROWS
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    def load(self, device: torch.device) -> Any:
        """See Tower."""
        from transformers import AutoModel

        quiet("transformers")
        try:
            model, report = AutoModel.from_pretrained(
                self.folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # transformers raises many classes here
            raise UserError("cannot load DINOv2", str(self.weights.path), str(error)[:300]) from error
        if report["missing_keys"] or report["mismatched_keys"]:
            lacks = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[:3]
            what = "the file is not the DINOv2 of its configuration"
            raise UserError(what, str(self.weights.path), f"it lacks {', '.join(lacks)}")
        model = model.eval().requires_grad_(False).to(device)

        def tokens(pixels: torch.Tensor) -> torch.Tensor:
            found = model(pixel_values=pixels).last_hidden_state[:, -(self.side**2) :]
            return found.unflatten(1, (self.side, self.side))

        return tokens


@dataclass(frozen=True)
class ClipTower:
    """The picture tower of a CLIP that open_clip loads; the tokens of its middle block, as later ones know
    little of where they are."""

    spec: clip_open.OpenClip
    patch: int
    side: int

    @property
    def weights(self) -> Found:
        """The file."""
        return self.spec.weights

    @property
    def mean(self) -> tuple[float, ...]:
        """How pictures are normalised."""
        return self.spec.mean

    @property
    def std(self) -> tuple[float, ...]:
        """How pictures are normalised."""
        return self.spec.std

    def load(self, device: torch.device) -> Any:
        """See Tower."""
        visual = self.spec.load(device)[0].__self__.visual
        block = max(0, int(self.spec.config["vision_cfg"]["layers"]) // 2 - 1)

        def tokens(pixels: torch.Tensor) -> torch.Tensor:
            found = visual.forward_intermediates(
                pixels, indices=[block], stop_early=True, intermediates_only=True, output_fmt="NCHW"
            )
            return found["image_intermediates"][0].permute(0, 2, 3, 1)

        return tokens


def describe(name: str, metric: str) -> Tower:
    """The tower called `name`: a Hub id or folder of DINOv2, else a CLIP of `clip_open`; or UserError."""
    source = clip_open.BACKBONES.get(name, name)
    path = package_folder(source) if source.startswith("package:") else Path(source).expanduser()
    dino = (path / "config.json").is_file() if path.is_dir() else bool(HUB_ID.fullmatch(source))
    return _dino(source, metric) if dino else _clip(name, metric)


def _dino(source: str, metric: str) -> DinoTower:
    config = find(source, ("config.json",), metric)
    weights = find(source, ("model.safetensors",), metric)
    try:
        said = json.loads(config.path.read_text(encoding="utf-8"))
        kind, patch = said["model_type"], int(said["patch_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{metric}: this is no configuration of DINOv2", str(config.path)) from error
    if kind not in DINO or not 1 <= patch <= 64:
        hint = f"it is {kind!r} with patches of {patch}; one of {', '.join(DINO)}"
        raise UserError(f"{metric}: this is not DINOv2", str(config.path), hint)
    return DinoTower(weights, config.path.parent, patch)


def _clip(name: str, metric: str) -> ClipTower:
    spec = clip_open.describe(name, metric)
    patch = spec.config["vision_cfg"].get("patch_size")
    if not isinstance(patch, int) or spec.size % patch or spec.size // patch > ROWS:
        hint = "a vision transformer with up to 32 patches a side, for example openai-vit-l-14"
        raise UserError(f"{metric}: this CLIP gives no map of patches", name, hint)
    return ClipTower(spec, patch, spec.size // patch)


class PatchMaps:
    """Maps of patch tokens from one tower, which the first picture loads and `release` frees."""

    def __init__(self, name: str, metric: str, device: str = "auto", batch_size: int = 8) -> None:
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} holds no picture", f"{metric}.batch_size", "1 or more")
        self.name, self.tower = name, describe(name, metric)
        self.device, self.batch_size = choose_device(device), batch_size
        self.hash = self.tower.weights.sha256[:16]
        self._tokens: Any = None

    def release(self) -> None:
        """Frees the network."""
        self._tokens = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """float32 [ROWS, columns, channels] of an RGB picture, uint8 [height, width, 3], wide or square."""
        self._tokens = self._tokens or self.tower.load(self.device)
        patch, side = self.tower.patch, self.tower.side
        columns = max(ROWS, round(image.shape[1] / image.shape[0] * ROWS))
        large = rgb(Image.fromarray(np.ascontiguousarray(image))).resize(
            (columns * patch, ROWS * patch), Image.Resampling.BICUBIC
        )
        pixels = torch.from_numpy(np.asarray(large, np.float32) / 255)
        pixels = (pixels - torch.tensor(self.tower.mean)) / torch.tensor(self.tower.std)
        places = [(top, left) for top in _starts(ROWS, side) for left in _starts(columns, side)]
        tent = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
        tent = np.outer(tent, tent)[..., None]
        total, weight = None, np.zeros((ROWS, columns, 1), np.float32)
        for at in range(0, len(places), self.batch_size):
            some = places[at : at + self.batch_size]
            cut = [pixels[y * patch : (y + side) * patch, x * patch : (x + side) * patch] for y, x in some]
            found = self._tokens(torch.stack(cut).permute(0, 3, 1, 2).to(self.device)).float().cpu().numpy()
            if total is None:
                total = np.zeros((ROWS, columns, found.shape[-1]), np.float32)
            for (y, x), tokens in zip(some, found, strict=True):
                total[y : y + side, x : x + side] += tent * tokens
                weight[y : y + side, x : x + side] += tent
        assert total is not None
        return total / weight


def _starts(length: int, side: int) -> list[int]:
    starts = list(range(0, length - side + 1, max(1, side // 2)))
    return starts if starts[-1] == length - side else [*starts, length - side]
