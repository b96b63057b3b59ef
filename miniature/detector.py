"""Counts the subjects, suns and moons in a picture: a small heat-map network at a quarter of the size.

The network knows only the miniature's world. A peak in a class's map is one object of that class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from miniature.scene import COUNTABLE, LIGHTS

DETECTOR_VERSION = 2
STRIDE = 4
# Every picture is shown at this height, so that objects have one scale whatever the picture's size.
HEIGHT = 64
# From which height on a peak counts: chosen on the first fifty scrolls that were counted by eye, so that the
# count has little bias (`miniature.counted`); the network is surer of discs than of half-formed subjects.
THRESHOLDS = {kind: 0.55 if kind in LIGHTS else 0.4 for kind in COUNTABLE}
APART = 0.16  # two peaks of a class nearer than this share of the height are one object
FOLDER = Path(__file__).parent / "weights" / "detector"


@dataclass(frozen=True)
class Found:
    """One object: what it is, its centre in pixels of the picture, and how sure the network is (0..1)."""

    kind: str
    x: float
    y: float
    score: float


class Detector(nn.Module):
    """Pictures (count x 3 x height x width, -1..1) to logits of peaks (count x 8 x quarter x quarter)."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.down = nn.Sequential(
            _layer(3, width, 3, 2), _layer(width, 2 * width, 3, 2), _layer(2 * width, 2 * width, 3),
        )  # fmt: skip
        self.deep = nn.Sequential(
            _layer(2 * width, 4 * width, 3, 2), _layer(4 * width, 4 * width, 3),
            _layer(4 * width, 4 * width, 3, 1, 2), _layer(4 * width, 4 * width, 3, 1, 2),
        )  # fmt: skip
        self.join = nn.Sequential(_layer(6 * width, 2 * width, 1), _layer(2 * width, 2 * width, 3))
        self.head = nn.Conv2d(2 * width, len(COUNTABLE), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        near = self.down(pictures)
        far = functional.interpolate(
            self.deep(near), size=near.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.head(self.join(torch.cat([near, far], dim=1)))


def _layer(inside: int, outside: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


@lru_cache(maxsize=1)
def load_detector(folder: Path = FOLDER) -> Detector:
    """The trained network, in evaluation mode; loaded once per process."""
    path = Path(folder) / "detector.safetensors"
    if not path.is_file():
        from drspo.errors import UserError

        raise UserError(
            "the detector has no weights", str(path), "run python -m miniature.fit --only detector"
        )
    model = Detector()
    model.load_state_dict(
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in load_file(path).items()
        }
    )
    return model.eval()


def count_objects(image: np.ndarray) -> list[Found]:
    """Every subject, sun and moon in a uint8 RGB picture (height x width x 3), the surest first."""
    return find_peaks(heat(load_detector(), image), image.shape[0])


@torch.inference_mode()
def heat(model: Detector, image: np.ndarray) -> np.ndarray:
    """Heat maps in 0..1: classes x rows x columns, one cell for every 4 x 4 pixels at 64 pixels of height."""
    shown = shown_at_height(image)
    values = torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return model(values).sigmoid()[0].numpy()


def shown_at_height(image: np.ndarray) -> np.ndarray:
    """The picture at the detector's height, its aspect kept."""
    if image.shape[0] == HEIGHT:
        return image
    width = max(STRIDE, round(image.shape[1] * HEIGHT / image.shape[0]))
    return cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)


def find_peaks(maps: np.ndarray, height: int) -> list[Found]:
    """Local maxima above their kind's threshold, one per object; positions for `height` pixels of height."""
    scale = height / HEIGHT * STRIDE
    found: list[Found] = []
    for kind, plane in zip(COUNTABLE, maps, strict=True):
        crest = (plane >= THRESHOLDS[kind]) & (plane >= cv2.dilate(plane, np.ones((3, 3), np.uint8)))
        peaks = sorted(((plane[y, x], y, x) for y, x in np.argwhere(crest)), reverse=True)
        kept: list[Found] = []
        for score, y, x in peaks:
            here = Found(kind, (float(x) + 0.5) * scale, (float(y) + 0.5) * scale, float(score))
            if all(np.hypot(here.x - other.x, here.y - other.y) > APART * height for other in kept):
                kept.append(here)
        found += kept
    return sorted(found, key=lambda here: -here.score)
