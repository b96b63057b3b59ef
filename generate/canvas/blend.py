"""Cropping windows from a canvas and averaging them back (eqs 3 and 4), vectorised and differentiable."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from generate.canvas.windows import Window, crop_index, paste_index, window_shape
from generate.config import WeightKind


def window_weights(kind: WeightKind, height: int, width: int) -> Tensor:
    """W_i of eq. 4: positive float32 weights [height, width] of one window's elements.

    uniform: 1 everywhere (MultiDiffusion); gaussian: exp(-(d / 0.3 side)^2 / 2) per axis from the centre;
    feathered: rises linearly over the outer quarter of each side, so seams fade.
    """
    profile = {"uniform": _flat, "gaussian": _gaussian, "feathered": _feathered}[kind]
    return (profile(height)[:, None] * profile(width)[None, :]).float()


def _flat(size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float64)


def _gaussian(size: int) -> Tensor:
    centre = (size - 1) / 2
    distance = (torch.arange(size, dtype=torch.float64) - centre) / (0.3 * size)
    return torch.exp(-0.5 * distance**2)


def _feathered(size: int) -> Tensor:
    position = torch.arange(size, dtype=torch.float64)
    from_edge = torch.minimum(position, size - 1 - position) + 1
    return (from_edge / max(size / 4, 1)).clamp(max=1.0)


def crop(canvas: Tensor, windows: Sequence[Window]) -> Tensor:
    """F_i for all windows at once: [B, C, H, W] -> [n, B, C, h, w]; wrapped windows continue at column 0."""
    batch, channels, height, width = canvas.shape
    h, w = window_shape(windows)
    index = _crop_index(tuple(windows), height, width, canvas.device)
    taken = canvas.reshape(batch, channels, -1).index_select(2, index)
    return taken.reshape(batch, channels, len(windows), h, w).permute(2, 0, 1, 3, 4)


def blend(predictions: Tensor, windows: Sequence[Window], weights: Tensor, height: int, width: int) -> Tensor:
    """The weighted average of eq. 4: [n, B, C, h, w] -> [B, C, height, width], 0 where no window reaches.

    Normalised by the local sum of weights, so a perfect prediction in every window stays perfect.
    """
    batch, channels = predictions.shape[1:3]
    flat = predictions.permute(1, 2, 0, 3, 4).reshape(batch, channels, -1)
    source, share = _shares(tuple(windows), weights, height, width, predictions.device)
    total = flat.index_select(2, source[0]) * share[0]
    for rank in range(1, source.shape[0]):
        total = total + flat.index_select(2, source[rank]) * share[rank]
    return total.reshape(batch, channels, height, width)


def merge_tokens(tokens: Tensor, windows: tuple[Window, ...], height: int, width: int) -> Tensor:
    """The plain mean over windows of a feature map's tokens: [B, n * h * w, C] -> [B, height * width, C]."""
    source, weight = _paste_plan(windows, height, width, tokens.device)
    merged = tokens.index_select(1, source[0]) * weight[0].to(tokens.dtype)[:, None]
    for rank in range(1, source.shape[0]):
        merged = merged + tokens.index_select(1, source[rank]) * weight[rank].to(tokens.dtype)[:, None]
    return merged


def split_tokens(canvas: Tensor, windows: tuple[Window, ...], height: int, width: int) -> Tensor:
    """The windows' tokens of a canvas: [B, height * width, C] -> [B, n * h * w, C]."""
    return canvas.index_select(1, _crop_index(windows, height, width, canvas.device))


def covered(windows: Sequence[Window], height: int, width: int, device: torch.device | None = None) -> Tensor:
    """True where at least one window reaches: bool [height, width]."""
    _, valid = paste_index(tuple(windows), height, width)
    return torch.from_numpy(valid[0].reshape(height, width).copy()).to(device)


def _shares(
    windows: tuple[Window, ...], weights: Tensor, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(source, share) [k, H*W]: which window element, and its normalised weight, at each canvas element."""
    values = weights.detach().cpu().float().contiguous().numpy().tobytes()
    return _kept_shares(windows, values, height, width, device)


@lru_cache(maxsize=16)
def _kept_shares(
    windows: tuple[Window, ...], values: bytes, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    source, valid = paste_index(windows, height, width)
    each = np.frombuffer(values, dtype=np.float32).astype(np.float64)
    raw = np.where(valid, each[source % each.size], 0.0)
    total = raw.sum(axis=0)
    share = raw / np.where(total > 0, total, 1.0)
    return _as_tensor(source, device), torch.from_numpy(share).float().to(device)


@lru_cache(maxsize=32)
def _crop_index(windows: tuple[Window, ...], height: int, width: int, device: torch.device) -> Tensor:
    return _as_tensor(crop_index(windows, height, width).ravel(), device)


@lru_cache(maxsize=32)
def _paste_plan(
    windows: tuple[Window, ...], height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    source, valid = paste_index(windows, height, width)
    share = valid / np.maximum(valid.sum(axis=0), 1)
    return _as_tensor(source, device), torch.from_numpy(share).float().to(device)


def _as_tensor(index: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(index.copy()).to(device)
