"""Self-similarity of windows: how much far apart windows of one scroll resemble each other.

It is no measure of repeated objects, and in no default: sky, ground and light fill most of a window, and an
object that stands in every window makes windows differ by where it is cut. Pasted copies lower it in most
scenes (`python -m eval --selftest --measures repetition`); `surplus` counts them. Kept for old records.

No weights beyond the backbone that the aesthetic scorer loads anyway. Low distance between crops is *not*
coherence: four copies of one picture have distance zero. So this measure reads the other way round, and a
high value is bad. Style alone raises it, therefore `excess` subtracts what windows of other seeds of the same
prompt share.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image, ImageOps

from eval.backbones.embeddings import Backbone, load_backbone
from eval.backbones.views import RESIZE_PATH, window_boxes


def far_pairs(boxes: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    """Index pairs of windows that share no pixel."""
    return [
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(boxes), 2)
        if a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    ]


def top_mean(values: np.ndarray, k: int) -> float:
    """The mean of the k largest values; a few strong copies count, however long the scroll is."""
    return float(np.sort(values)[-min(k, len(values)) :].mean())


@dataclass(frozen=True, slots=True)
class Windows:
    """Unit vectors [windows, dim] of one scroll's windows, as they are and mirrored."""

    plain: np.ndarray
    mirrored: np.ndarray


def similarity(a: Windows, b: Windows, pairs: list[tuple[int, int]], k: int = 3) -> float:
    """Mean cosine of the k most similar far pairs, window i of `a` with window j of `b`, mirror images too.

    With `a` and `b` the same scroll this is its self-similarity, 1 for exact copies; 0 without far pairs.
    """
    if not pairs:
        return 0.0
    left, right = map(list, zip(*pairs, strict=True))
    best = np.maximum.reduce(
        [
            (a.plain[left] * b.plain[right]).sum(axis=1),
            (a.plain[left] * b.mirrored[right]).sum(axis=1),
            (a.mirrored[left] * b.plain[right]).sum(axis=1),
        ]
    )
    return top_mean(best, k)


def excess(own: Windows, others: list[Windows], pairs: list[tuple[int, int]], k: int = 3) -> float:
    """The self-similarity of `own` beyond what it shares with other seeds of its prompt.

    The very same pairs are compared across scrolls, so what prompt, style and place make alike is subtracted
    and repetition remains. `others` are scrolls of the same method and prompt; ValueError without any.
    """
    if not others:
        raise ValueError("self-similarity excess needs at least one other seed of the same prompt")
    between = [similarity(a, b, pairs, k) for other in others for a, b in ((own, other), (other, own))]
    return similarity(own, own, pairs, k) - float(np.mean(between))


class SelfSimilarity:
    """Far-window self-similarity of each image, a cosine; higher means more repetition."""

    name = "repetition"
    unit = "cosine of far windows, higher is worse"
    higher_is_better = False
    view = "windows"

    def __init__(
        self, backbone: str = "openai-vit-l-14", device: str = "cpu", batch_size: int = 32, top: int = 3
    ) -> None:
        self.backbone: Backbone = load_backbone(backbone, device, batch_size)
        self.top = top
        self.checkpoint = backbone
        self.checkpoint_hash = f"{self.backbone.hash}+{RESIZE_PATH}"

    def windows(self, images: list[Image.Image]) -> list[Windows]:
        """The embedded windows of each image."""
        plain = self.backbone.embed_views(images, "windows")
        mirrored = self.backbone.embed_views([ImageOps.mirror(image) for image in images], "windows")
        return [
            # A mirrored landscape has its windows in reverse order.
            Windows(a, b[::-1] if image.width >= image.height else b)
            for image, a, b in zip(images, plain, mirrored, strict=True)
        ]

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One self-similarity per image; 0 for an image with a single window. Prompts don't matter."""
        return [
            similarity(windows, windows, far_pairs(window_boxes(*image.size)), self.top)
            for image, windows in zip(images, self.windows(images), strict=True)
        ]
