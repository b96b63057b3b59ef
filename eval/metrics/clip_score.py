"""CLIP score: the cosine between an image's and its prompt's embedding (Hessel et al. 2021, unscaled)."""

from __future__ import annotations

from PIL import Image

from eval.backbones.embeddings import load_backbone
from eval.backbones.views import RESIZE_PATH, check_view


class ClipScore:
    """Raw cosine of image and prompt; windows are averaged (which rewards repetition: prefer whole views)."""

    name = "clip"
    unit = "cosine"
    higher_is_better = True

    def __init__(
        self,
        backbone: str = "openai-vit-l-14",
        view: str = "letterbox",
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        check_view(view)
        self.view = view
        self.backbone = load_backbone(backbone, device, batch_size)
        self.checkpoint = backbone
        self.checkpoint_hash = f"{self.backbone.hash}+{RESIZE_PATH}"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One cosine per image with its own prompt."""
        texts = self.backbone.embed_texts(prompts)
        views = self.backbone.embed_views(images, self.view)
        return [float((vectors @ text).mean()) for vectors, text in zip(views, texts, strict=True)]
