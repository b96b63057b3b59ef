"""The LAION aesthetic score (Schuhmann et al. 2022): a small head on a unit CLIP embedding.

The score that ranks the preference data (DRSPO section 5.1.1). It is about 1 to 10 for the v2 heads.
"""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from eval.backbones.embeddings import load_backbone
from eval.backbones.heads import check_fit, load_head
from eval.backbones.views import RESIZE_PATH, check_view, seen_fraction

log = logging.getLogger(__name__)


class Aesthetic:
    """The aesthetic score of whole images under one view; windows are averaged.

    `backbone` and `head` are names of `eval.backbones.embeddings.BACKBONES` and `eval.backbones.heads.HEADS`,
    or paths. A head that was trained on another backbone is refused.
    """

    name = "aesthetic"
    unit = "LAION aesthetic score, about 1 to 10"
    higher_is_better = True

    def __init__(
        self,
        backbone: str = "openai-vit-l-14",
        head: str = "laion-v2-linear",
        view: str = "official",
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        check_view(view)
        self.view = view
        self.backbone = load_backbone(backbone, device, batch_size)
        self.head = load_head(head)
        check_fit(self.head, self.backbone.dim, self.backbone.spec.identity, backbone)
        self.checkpoint = f"{backbone}+{head}"
        self.checkpoint_hash = f"{self.backbone.hash}+{self.head.hash}+{RESIZE_PATH}"
        self._warned = False

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One score per image; `prompts` don't matter to this scorer."""
        self._warn_of_crop(images)
        return [float(np.mean(values)) for values in self.score_squares(images)]

    def score_squares(self, images: list[Image.Image]) -> list[np.ndarray]:
        """The scores of each square that the view shows, per image."""
        return [self.head(vectors) for vectors in self.backbone.embed_views(images, self.view)]

    def _warn_of_crop(self, images: list[Image.Image]) -> None:
        share = min((seen_fraction(*image.size, self.view) for image in images), default=1.0)
        if share < 0.8 and not self._warned:
            log.warning(
                "The official preprocessing of the aesthetic score sees only the middle %.0f %% of these "
                "images. Use view=windows or letterbox to judge the whole scroll.",
                100 * share,
            )
            self._warned = True
