"""The contract of a scorer, and the presets that go with each model."""

from __future__ import annotations

from typing import Any, Protocol

from PIL import Image

from drspo.registry import lookup


class Scorer(Protocol):
    """Images (and their prompts) to numbers, with everything that names the number."""

    name: str
    unit: str
    higher_is_better: bool
    checkpoint: str
    checkpoint_hash: str
    view: str

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image, in order; equal for a batch and for singles up to float rounding."""
        ...


# What a model's pictures are scored with when the user names only the model. The same names as in
# generate.models.family.MODELS, so that one word chooses painter and judge.
SCORER_PRESETS: dict[str, dict[str, Any]] = {
    "miniature": {"backbone": "miniature", "head": "miniature"},
    "sdxl": {"backbone": "openai-vit-l-14", "head": "laion-v2-linear"},
}


def scorer_preset(model: str) -> dict[str, Any]:
    """The backbone and head that judge `model`'s pictures; any other model gets the real ones."""
    return dict(SCORER_PRESETS.get(model, SCORER_PRESETS["sdxl"]))


def build_scorer(name: str, settings: dict[str, Any] | None = None) -> Scorer:
    """The scorer or measure called `name`, built with `settings`; unknown names get the nearest one."""
    from eval import MEASURES, SCORERS

    return lookup(SCORERS | MEASURES, name, "scorer")(**(settings or {}))
