"""CLIP score: the cosine between an image's and its prompt's embedding (Hessel et al. 2021, unscaled)."""

from __future__ import annotations

from eval.backbones.embeddings import load_backbone
from eval.metrics.text_image import TwoTowers


class ClipScore(TwoTowers):
    """Raw cosine of image and prompt; windows are averaged (which rewards repetition: prefer whole views)."""

    name = "clip"

    def __init__(
        self,
        backbone: str = "openai-vit-l-14",
        view: str = "letterbox",
        device: str = "auto",
        batch_size: int = 32,
        cache: str = "",
    ) -> None:
        super().__init__(load_backbone(backbone, device, batch_size, cache), view)
