"""Small requests on the golden tiny checkpoints, for tests of the samplers."""

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from generate.canvas.windows import crop_index
from generate.models.family import ModelFamily, load_family
from generate.request import Request
from tests.tiny_models import make_controlnet


@lru_cache
def family(golden: Path, name: str = "tiny-sdxl") -> ModelFamily:
    """A golden checkpoint, loaded once; tests leave it as they found it."""
    return load_family(str(golden / "models" / name), device="cpu")


@lru_cache
def controlled_family(golden: Path) -> ModelFamily:
    """The golden SDXL with a ControlNet made for it, loaded once."""
    base = golden / "models" / "tiny-sdxl"
    with TemporaryDirectory() as folder:
        control = make_controlnet(base, Path(folder))
        options = {"controlnet": True, "controlnet_source": str(control), "conditioning": "canny"}
        return load_family(str(base), device="cpu", **options)


def small_request(**changes) -> Request:
    """A scroll of 16 x 40 latents in two steps."""
    settings = {"prompt": "a misty river", "height": 128, "width": 320, "steps": 2, "seed": 3} | changes
    return Request(**settings)


SMALL = {"window": 128, "stride": 64}
"""Four windows of 16 latents on that scroll."""


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the reference's largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def overlap_counts(windows, height: int, width: int) -> np.ndarray:
    """How many windows cover each element of the canvas, counted one by one: [height, width]."""
    index = crop_index(tuple(windows), height, width)
    return np.bincount(index.ravel(), minlength=height * width).reshape(height, width)
