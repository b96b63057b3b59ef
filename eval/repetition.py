"""Repetition: how much far apart windows of one scroll resemble each other.

No weights beyond the backbone that the aesthetic scorer loads anyway. Low distance between crops is *not*
coherence: four copies of one picture have distance zero. So this measure reads the other way round, and a
high value is bad. Style alone raises it, therefore `excess` subtracts what windows of other seeds of the same
prompt share.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from PIL import Image, ImageOps

from eval.backbone import Backbone, load_backbone
from eval.views import RESIZE_PATH, window_boxes


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


def self_similarity(
    plain: np.ndarray, mirrored: np.ndarray, pairs: list[tuple[int, int]], k: int = 3
) -> float:
    """Mean of the k most similar far pairs, each window also against the other's mirror image.

    `plain` and `mirrored` are unit vectors [windows, dim]; the result is a cosine, 1 for exact copies.
    """
    if not pairs:
        return 0.0
    best = [max(plain[i] @ plain[j], plain[i] @ mirrored[j], mirrored[i] @ plain[j]) for i, j in pairs]
    return top_mean(np.asarray(best), k)


def excess(own: float, plain: np.ndarray, others: list[np.ndarray], k: int = 3) -> float:
    """`own` self-similarity minus the same quantity between this scroll and other seeds of its prompt.

    What the prompt and the style make alike is subtracted; what remains is repetition. `others` are unit
    vectors [windows, dim] of scrolls of the same method and prompt; ValueError without any.
    """
    if not others:
        raise ValueError("self-similarity excess needs at least one other seed of the same prompt")
    between = [top_mean((plain @ other.T).ravel(), k) for other in others]
    return own - float(np.mean(between))


class SelfSimilarity:
    """Far-window self-similarity of each image, a cosine; higher means more repetition."""

    name = "repetition"
    unit = "cosine of far windows, higher is worse"
    view = "windows"

    def __init__(
        self, backbone: str = "openai-vit-l-14", device: str = "cpu", batch_size: int = 32, top: int = 3
    ) -> None:
        self.backbone: Backbone = load_backbone(backbone, device, batch_size)
        self.top = top
        self.checkpoint = backbone
        self.checkpoint_hash = f"{self.backbone.hash}+{RESIZE_PATH}"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One self-similarity per image; 0 for an image with a single window. Prompts don't matter."""
        plain = self.backbone.embed_views(images, "windows")
        mirrored = self.backbone.embed_views([ImageOps.mirror(image) for image in images], "windows")
        return [
            # A mirrored image has its windows in reverse order along the width.
            self_similarity(
                a,
                b[::-1] if image.width >= image.height else b,
                far_pairs(window_boxes(*image.size)),
                self.top,
            )
            for image, a, b in zip(images, plain, mirrored, strict=True)
        ]
