"""Whole-against-window gap (GAP): how much better a scroll's windows fit its prompt than the scroll does.

Locally right and globally nonsense reads as a large gap. Its level means nothing; compare methods on the same
prompts only. No drawn control judges it, so it is in no default.
"""

from __future__ import annotations

from PIL import Image

from eval.metrics.clip_score import ClipScore


class Gap:
    """Mean text score of the windows less that of the whole image on black, per image."""

    name = "gap"
    unit = "cosine, windows less whole"
    higher_is_better = False
    view = "windows and letterbox"
    version = "1"
    needs_prompt = True

    def __init__(
        self,
        backbone: str = "openai-vit-l-14",
        device: str = "auto",
        batch_size: int = 32,
        cache: str = "",
    ) -> None:
        self.whole = ClipScore(backbone, "letterbox", device, batch_size, cache)
        self.windows = ClipScore(backbone, "windows", device, batch_size, cache)
        self.checkpoint, self.checkpoint_hash = self.whole.checkpoint, self.whole.checkpoint_hash
        self.revision, self.text_limit = self.whole.revision, self.whole.text_limit

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One difference per image with its own prompt."""
        near, far = self.windows.score(images, prompts), self.whole.score(images, prompts)
        return [one - other for one, other in zip(near, far, strict=True)]

    def release(self) -> None:
        """Frees the networks."""
        self.whole.release()
