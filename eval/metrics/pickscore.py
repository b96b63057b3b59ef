"""PickScore (Kirstain et al. 2023): exp(logit scale) times the cosine of a CLIP tuned on people's picks.

The raw score is about 18 to 24. The share that a picture gets of a group, a softmax over the raw scores,
means something only with the group named: `shares` takes it, and tables name it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from eval.backbones.clip_transformers import TransformersClip, describe
from eval.backbones.embeddings import Backbone
from eval.metrics.text_image import TwoTowers

REPOSITORY = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class PickScore(TwoTowers):
    """The raw PickScore; `weights` is a Hub id or folder in transformers' layout."""

    name = "pickscore"
    unit = "raw PickScore"

    def __init__(
        self,
        weights: str = REPOSITORY,
        tokenizer: str = PROCESSOR,
        view: str = "official",
        device: str = "auto",
        batch_size: int = 32,
        cache: str = "",
    ) -> None:
        super().__init__(_backbone(weights, tokenizer, device, batch_size, cache), view)
        source: TransformersClip = self.backbone.spec
        self.factor = source.logit_scale()


@lru_cache(maxsize=4)
def _backbone(weights: str, tokenizer: str, device: str, batch_size: int, cache: str) -> Backbone:
    return Backbone(describe(weights, tokenizer, PickScore.name), device, batch_size, cache)


def shares(raw: np.ndarray) -> np.ndarray:
    """The softmax over the last axis: the chance that each picture of a group is picked, which sums to 1.

    raw: [..., group], raw PickScores of one prompt. NaN stays NaN and leaves the others their whole.
    """
    values = np.asarray(raw, np.float64)
    top = np.nanmax(values, axis=-1, keepdims=True)
    weights = np.exp(values - top)
    return weights / np.nansum(weights, axis=-1, keepdims=True)
