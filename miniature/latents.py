"""Latents and caption embeddings of the training scenes, computed once so that the UNet never encodes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from miniature.captions import captions
from miniature.fit_text import encode, tokenize
from miniature.pictures import BLUEPRINT, SQUARE, WIDE, painted, scene_of, to_tensor

COUNTS = {SQUARE: 10000, BLUEPRINT: 9000, WIDE: 2500}
_CHUNK = 32


@dataclass(frozen=True)
class TextStack:
    """The frozen text side of the pipeline."""

    tokenizer: CLIPTokenizer
    first: CLIPTextModel
    second: CLIPTextModelWithProjection

    @torch.no_grad()
    def embed(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states (count x 77 x 160) and pooled projection (count x 96)."""
        return encode(self.first, self.second, tokenize(self.tokenizer, texts))


@dataclass(frozen=True)
class Encoded:
    """One bucket: memory-mapped half precision arrays, one row per scene."""

    size: tuple[int, int]
    latents: np.ndarray  # count x 4 x height / 8 x width / 8, scaled
    hidden: np.ndarray  # count x 77 x 160
    pooled: np.ndarray  # count x 96

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(
            torch.from_numpy(array[index]).float() for array in (self.latents, self.hidden, self.pooled)
        )


def encoded(size: tuple[int, int], vae: AutoencoderKL, text: TextStack, work: Path) -> Encoded:
    """The bucket's latents and embeddings, from disk if an earlier run made them."""
    pictures = painted(size, COUNTS[size], work)
    name = f"{size[0]}x{size[1]}"
    latents = kept(
        work / f"latents-{name}.npy", len(pictures), lambda part: picture_latents(vae, pictures[part])
    )
    chosen = [caption_of(size, index) for index in range(len(pictures))]
    hidden = kept(work / f"hidden-{name}.npy", len(pictures), lambda part: text.embed(chosen[part])[0])
    pooled = kept(work / f"pooled-{name}.npy", len(pictures), lambda part: text.embed(chosen[part])[1])
    return Encoded(size, latents, hidden, pooled)


def caption_of(size: tuple[int, int], index: int) -> str:
    """One caption for each scene, more often a full one than a short one."""
    rng = np.random.default_rng([index, *size, 33])
    choices = captions(scene_of(size, index))
    return choices[rng.integers(5 if rng.random() < 0.6 else len(choices))]


@torch.no_grad()
def picture_latents(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    """Scaled latents of uint8 pictures."""
    values = to_tensor(pictures).contiguous(memory_format=torch.channels_last)
    return vae.encode(values).latent_dist.mean * vae.config.scaling_factor


def kept(path: Path, count: int, compute) -> np.ndarray:
    """The array at `path`, filled chunk by chunk and renamed when it is whole."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        file = None
        for start in range(0, count, _CHUNK):
            part = slice(start, min(count, start + _CHUNK))
            values = compute(part).half().contiguous().numpy()
            if file is None:
                file = np.lib.format.open_memmap(
                    partial, mode="w+", dtype=np.float16, shape=(count, *values.shape[1:])
                )
            file[part] = values
        if file is not None:
            file.flush()
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")
