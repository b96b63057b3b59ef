"""What the scorers that compare a picture with its prompt by two towers share."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from eval.backbones.embeddings import Backbone
from eval.backbones.views import RESIZE_PATH, check_view, seen_fraction
from eval.base import check_prompts

log = logging.getLogger(__name__)


class CropWarning:
    """Says once that a view hides most of a long picture."""

    def __init__(self, metric: str, view: str, whole: str = "letterbox or squash") -> None:
        self.metric, self.view, self.whole, self._said = metric, view, whole, False

    def say(self, images: list[Image.Image]) -> None:
        """Warns when under 80 % of the long side is seen."""
        share = min((seen_fraction(*image.size, self.view) for image in images), default=1.0)
        if share < 0.8 and not self._said:
            self._said = True
            log.warning(
                "The official preprocessing of %s sees only the middle %.0f %% of these images. "
                "Its option view (%s) judges the whole scroll: NAME.view=... among --scoring.options, "
                "in eval --judges.options.",
                self.metric,
                100 * share,
                self.whole,
            )


class TextCut:
    """Says once, and for the whole list of prompts, what a scorer's text limit cuts off."""

    def __init__(self, metric: str, limit: int) -> None:
        self.metric, self.limit, self._said = metric, limit, False

    def say(self, counts: list[int]) -> None:
        """Warns when any text is longer than the limit; counts include the start and end tokens."""
        over = [count for count in counts if count > self.limit]
        if over and not self._said:
            self._said = True
            share = max(100 * (count - self.limit) / (count - 2) for count in over)
            log.warning(
                "%s reads %d tokens of a prompt: %d of these %d prompts are longer, up to %.0f %% is cut.",
                self.metric,
                self.limit,
                len(over),
                len(counts),
                share,
            )


class TwoTowers:
    """`factor` times the cosine of picture and prompt; windows are averaged, which rewards repetition."""

    name = "two_towers"
    version = "1"
    unit = "cosine"
    higher_is_better = True
    needs_prompt = True
    factor = 1.0

    def __init__(self, backbone: Backbone, view: str) -> None:
        check_view(view)
        self.view, self.backbone = view, backbone
        self.checkpoint = backbone.spec.name
        self.revision = backbone.spec.weights.revision
        self.checkpoint_hash = f"{backbone.hash}+{RESIZE_PATH}"
        self.text_limit = backbone.spec.text_limit
        backbone.tokenizer  # noqa: B018  its files are missed here, before a picture is painted
        self._crop, self._cut = CropWarning(self.name, view), TextCut(self.name, self.text_limit)

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image with its own prompt."""
        check_prompts(prompts, self.name)
        self._crop.say(images)
        self._cut.say(self.backbone.token_counts(prompts))
        texts = self.backbone.embed_texts(prompts)
        views = self.backbone.embed_views(images, self.view)
        return [
            self.factor * float(np.mean(vectors @ text)) for vectors, text in zip(views, texts, strict=True)
        ]

    def release(self) -> None:
        """Frees the networks."""
        self.backbone.release()
