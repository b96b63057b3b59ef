"""What stands out of a photograph: patch tokens against those of their row and of the whole picture.

The photograph's counterpart of `salience`: colour is replaced by what a network sees. Grass varies from token
to token as much as a cup differs from grass, but in other directions: so distances are taken in units of what
the picture's own background varies by (Reed and Yu 1990, robustly).
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from eval.metrics.salience import Field, cuts, small_lab

CHANNELS = 12
"""Directions in which tokens vary that are kept: enough for likeness, and cheap."""
BACKGROUND = 0.6
"""The share of a picture that is taken for its background: what lies nearest to the middle."""
STEPS = (1.0, 1.4, 2.0)
"""Dead zones as multiples of the first: things that touch come apart at the last."""
WIDEST = 0.9
"""Heights beyond which a thing is a layer: a shore, a bank of clouds, a wall."""


def residual(tokens: np.ndarray) -> np.ndarray:
    """[rows, columns, CHANNELS]: tokens less their row's median, in units of the background's variation."""
    smooth = gaussian_filter(tokens.astype(np.float32), (0.8, 0.8, 0))
    rest = (smooth - np.median(smooth, axis=1, keepdims=True)).reshape(-1, tokens.shape[2]).astype(np.float64)
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    rest = rest @ vectors[:, ::-1][:, :CHANNELS]
    least = max(1e-4 * float(values[-1]), 1e-12) * np.eye(rest.shape[1])
    inside, white = np.ones(len(rest), bool), rest
    for _ in range(4):
        spread = np.linalg.cholesky(np.cov(rest[inside].T, bias=True) + least)
        white = rest @ np.linalg.inv(spread).T
        distance = np.linalg.norm(white, axis=1)
        inside = distance <= np.quantile(distance, BACKGROUND)
    return white.reshape(*tokens.shape[:2], -1).astype(np.float32)


def token_field(rest: np.ndarray, image: np.ndarray, floor: float) -> Field:
    """The field of residuals [rows, columns, channels] of an RGB picture, no taller than wide.

    A cell belongs to a thing where its residual is `floor` times the picture's median or more.
    """
    distance = np.linalg.norm(rest, axis=2).astype(np.float32)
    typical = max(float(np.median(distance)), 1e-9)
    hard = cuts(small_lab(image)).astype(np.float32)[None]
    cut = cv2.resize(hard, (rest.shape[1], 1), interpolation=cv2.INTER_AREA)[0] > 0
    weight = np.zeros_like(distance)
    for step in STEPS:
        above = _things_only(np.maximum(0, distance - step * floor * typical), cut)
        weight = np.maximum(weight, above / (above + typical))
    vectors = rest / np.maximum(distance, 1e-9)[..., None] * weight[..., None]
    return Field(cv2.GaussianBlur(vectors, (0, 0), 0.6), weight)


def _things_only(salient: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Without layers and specks: connected parts of at least 0.006 square heights and 0.1 heights, after what
    is wider than WIDEST was taken away, that do not end at a hard cut."""
    rows = salient.shape[0]
    line = np.ones((1, 2 * round(WIDEST * rows / 2) + 1), np.uint8)
    margin = line.shape[1]
    padded = cv2.copyMakeBorder(salient, 0, 0, margin, margin, cv2.BORDER_CONSTANT, value=0)
    left = np.maximum(0, salient - cv2.morphologyEx(padded, cv2.MORPH_OPEN, line)[:, margin:-margin])
    _, parts, stats, _ = cv2.connectedComponentsWithStats((left > 0).astype(np.uint8), connectivity=8)
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    keep = (stats[:, cv2.CC_STAT_AREA] >= 0.006 * rows**2) & (height >= 0.1 * rows) & (height >= 0.3 * width)
    keep[np.unique(parts[:, cut])] = False
    keep[0] = False
    return (left * keep[parts]).astype(np.float32)
