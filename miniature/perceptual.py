"""How far apart two pictures look: LPIPS's form of distance on a small network of the drawn world.

The network knows the miniature's world alone. Its distance is that of Zhang et al. 2018, eq. 1: at four
depths the features are brought to unit length along their channels, their squared differences weighted
channel by channel, averaged over the picture and added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "perceptual.safetensors"
KIND = "PerceptualNet"
WIDTHS = (24, 48, 72, 96)
FOLDER = Path(__file__).parent / "weights" / "perceptual"
_TINY = 1e-8


class PerceptualNet(nn.Module):
    """Distances of pictures; each depth sees the picture at half the size of the one before."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        before = (3, *widths[:-1])
        self.stages = nn.ModuleList(_stage(i, o) for i, o in zip(before, widths, strict=True))
        self.weights = nn.ParameterList(torch.full((width,), 1 / width) for width in widths)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances [n] of two batches [n, 3, H, W] in -1..1; 0 for the same picture, with gradient."""
        pairs = zip(self.features(one), self.features(other), self.weights, strict=True)
        layers = [_weighted((_unit(a) - _unit(b)).square(), weight) for a, b, weight in pairs]
        return torch.stack(layers).sum(0)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What each depth sees in pictures [n, 3, H, W]: [n, C, H / 2, W / 2] and so on."""
        seen = []
        for stage in self.stages:
            pictures = stage(pictures)
            seen.append(pictures)
        return seen


def load_perceptual(folder: Path = FOLDER) -> PerceptualNet:
    """The network of a folder, frozen and in single precision; ValueError for a folder of another kind."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.get("_class_name") != KIND:
        raise ValueError(f"{folder} holds a {config.get('_class_name')}, not a {KIND}")
    model = PerceptualNet(tuple(config["widths"]))
    model.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    return model.eval().requires_grad_(False)


def _stage(before: int, width: int) -> nn.Sequential:
    """Two convolutions, the first of which halves; smooth everywhere, so that gradients are too."""
    return nn.Sequential(
        nn.Conv2d(before, width, 3, 2, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.SiLU()
    )  # fmt: skip


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + _TINY).sqrt()


def _weighted(differences: Tensor, weight: Tensor) -> Tensor:
    return (differences * weight.view(1, -1, 1, 1)).sum(1).mean(dim=(1, 2))
