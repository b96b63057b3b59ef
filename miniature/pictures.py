"""Painted scenes kept on disk, one file per bucket of sizes, so that training never waits for the painter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from miniature.paint import paint
from miniature.scene import Scene, sample_scene

SQUARE, BLUEPRINT, WIDE, SCROLL = (128, 128), (64, 256), (128, 256), (128, 512)
BUCKETS = (SQUARE, BLUEPRINT, WIDE)
FIRST_SEED = {SQUARE: 0, BLUEPRINT: 1_000_000, WIDE: 2_000_000, SCROLL: 3_000_000}
FRESH_SEED = 50_000_000  # no training scene has a seed from here on


def scene_of(size: tuple[int, int], index: int) -> Scene:
    """The training scene number `index` of a bucket."""
    return sample_scene(FIRST_SEED[size] + index, *size)


def painted(size: tuple[int, int], count: int, folder: Path) -> np.ndarray:
    """`count` training pictures of one bucket (count x height x width x 3, uint8), memory-mapped."""
    path = folder / f"pictures-{size[0]}x{size[1]}-{count}.npy"
    for larger in sorted(folder.glob(f"pictures-{size[0]}x{size[1]}-*.npy")):
        if int(larger.stem.rsplit("-", 1)[1]) > count:  # begins with the same scenes
            return np.load(larger, mmap_mode="r")[:count]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        shape = (count, *size, 3)
        file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for index in range(count):
            file[index] = paint(scene_of(size, index))
        file.flush()
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def to_tensor(pictures: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures (count x height x width x 3) to float in -1..1 (count x 3 x height x width)."""
    array = np.ascontiguousarray(np.asarray(pictures))
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(values: Tensor) -> np.ndarray:
    """Float in -1..1 (count x 3 x height x width) to uint8 pictures (count x height x width x 3)."""
    scaled = (values.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def save_grid(path: Path, pictures: Sequence[np.ndarray] | np.ndarray, columns: int) -> None:
    """Equal pictures side by side in rows of `columns`, as one PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [np.hstack(list(pictures[start : start + columns])) for start in range(0, len(pictures), columns)]
    width = rows[0].shape[1]
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
