"""Measures that other papers print, for comparison: Intra-LPIPS and Intra-Style (SyncDiffusion 2023).

Both are distances between the squares of one scroll, and both fall into the same trap: four copies of one
square have distance 0, the best there is. They are no evidence against repetition and in no default.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb
from eval.backbones.embeddings import choose_device
from eval.backbones.views import squash, window_boxes

SIDE = 512
STYLE_LAYERS = (0, 5, 10, 19, 28)
"""conv1_1 to conv5_1 of torchvision's VGG19."""


def squares(image: Image.Image, side: int = SIDE) -> torch.Tensor:
    """The squares of a scroll that share no pixel, [squares, 3, side, side] in 0..1."""
    boxes = window_boxes(*image.size, overlap=False)
    crops = [np.asarray(squash(rgb(image).crop(box), side)) for box in boxes]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def mean_over_pairs(distances: dict[tuple[int, int], float]) -> float:
    """The mean distance; missing for a scroll of one square."""
    return float(np.mean(list(distances.values()))) if distances else float("nan")


class _Peer:
    higher_is_better = False
    view = "squares side by side"
    version = "1"

    def __init__(self, device: str = "auto", side: int = SIDE) -> None:
        self.device = choose_device(device)
        self.side = side
        self._network: Any = None

    def release(self) -> None:
        """Forgets the network."""
        self._network = None

    @torch.inference_mode()
    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One mean distance over pairs of squares per image; prompts don't matter."""
        if self._network is None:
            self._network = self.load().to(self.device).eval()
        return [self.apart(squares(image, self.side).to(self.device)) for image in images]

    def load(self) -> torch.nn.Module:
        """The network, from torchvision's weights."""
        raise NotImplementedError

    def apart(self, crops: torch.Tensor) -> float:
        """The mean distance of the squares."""
        raise NotImplementedError


class IntraLpips(_Peer):
    """Mean LPIPS (VGG16; Zhang et al. 2018) over all pairs of squares; 0 for copies: see the module."""

    name = "intra_lpips"
    unit = "LPIPS between squares; repetition lowers it too"
    checkpoint = "lpips-vgg"
    checkpoint_hash = "lpips-0.1"

    def load(self) -> torch.nn.Module:
        """LPIPS, whose backbone torchvision fetches."""
        try:
            import lpips
        except ImportError as error:
            raise UserError("Intra-LPIPS needs the lpips package", "scorer", "pip install lpips") from error
        return lpips.LPIPS(net="vgg", verbose=False)

    def apart(self, crops: torch.Tensor) -> float:
        """Mean LPIPS over pairs."""
        pairs = combinations(range(len(crops)), 2)
        return mean_over_pairs(
            {
                (i, j): float(self._network(crops[i : i + 1] * 2 - 1, crops[j : j + 1] * 2 - 1))
                for i, j in pairs
            }
        )


class IntraStyle(_Peer):
    """Mean squared distance of Gram matrices (VGG19; Gatys et al. 2016) over all pairs of squares.

    A mean over pairs where SyncDiffusion's code adds them up, so that scrolls of any length compare; 0 for
    copies: see the module.
    """

    name = "intra_style"
    unit = "Gram distance between squares; repetition lowers it too"
    checkpoint = "torchvision-vgg19"
    checkpoint_hash = "IMAGENET1K_V1"

    def load(self) -> torch.nn.Module:
        """VGG19's convolutions, which torchvision fetches."""
        from torchvision.models import VGG19_Weights, vgg19

        return vgg19(weights=VGG19_Weights.IMAGENET1K_V1).features

    def apart(self, crops: torch.Tensor) -> float:
        """Mean over pairs of the sum over layers of the Gram matrices' mean squared difference."""
        grams = self._grams(crops)
        pairs = combinations(range(len(crops)), 2)
        return mean_over_pairs(
            {(i, j): sum(float(((gram[i] - gram[j]) ** 2).mean()) for gram in grams) for i, j in pairs}
        )

    def _grams(self, crops: torch.Tensor) -> list[torch.Tensor]:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        values = (crops - mean.to(crops)[:, None, None]) / std.to(crops)[:, None, None]
        out = []
        for number, layer in enumerate(self._network):
            values = layer(values)
            if number in STYLE_LAYERS:
                flat = values.flatten(2)
                out.append(flat @ flat.transpose(1, 2) / flat[0].numel())
            if number == STYLE_LAYERS[-1]:
                break
        return out
