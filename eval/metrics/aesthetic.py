"""The LAION aesthetic score (Schuhmann et al. 2022): a small head on a unit CLIP embedding.

The score that ranks the preference data (DRSPO section 5.1.1). It is about 1 to 10 for the v2 heads.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from eval.backbones.embeddings import load_backbone
from eval.backbones.heads import check_fit, load_head
from eval.backbones.views import RESIZE_PATH, check_view
from eval.metrics.text_image import CropWarning


class Aesthetic:
    """The aesthetic score of whole images under one view; windows are averaged.

    `backbone` is anything `eval.backbones.clip_open` knows, `head` a name of `eval.backbones.heads.HEADS` or
    a file. A head that was trained on other weights is refused.
    """

    name = "aesthetic"
    version = "1"
    unit = "LAION aesthetic score, about 1 to 10"
    higher_is_better = True

    def __init__(
        self,
        backbone: str = "openai-vit-l-14",
        head: str = "laion-v2-linear",
        view: str = "official",
        device: str = "auto",
        batch_size: int = 32,
        cache: str = "",
    ) -> None:
        check_view(view)
        self.view = view
        self.head = load_head(head)
        self.backbone = load_backbone(backbone, device, batch_size, cache)
        check_fit(self.head, self.backbone.spec)
        self.checkpoint = f"{backbone}+{head}"
        self.revision = self.backbone.spec.weights.revision
        self.checkpoint_hash = f"{self.backbone.hash}+{self.head.hash}+{RESIZE_PATH}"
        self._crop = CropWarning("the aesthetic score", view, "windows or letterbox")

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One score per image; `prompts` don't matter to this scorer."""
        self._crop.say(images)
        return [float(np.mean(values)) for values in self.score_squares(images)]

    def score_squares(self, images: list[Image.Image]) -> list[np.ndarray]:
        """The scores of each square that the view shows, per image."""
        return [self.head(vectors) for vectors in self.backbone.embed_views(images, self.view)]

    def release(self) -> None:
        """Frees the backbone."""
        self.backbone.release()
