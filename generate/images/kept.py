"""Columns of a picture that stay as they are, while the rest of it is painted anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generate.images.join import joined
from generate.images.vae import encode_images, from_pil, scale_factor

MARGIN = 64
"""Pixels by which a kept part is mirrored beyond its ends where it is encoded: to the encoder it has none."""


@dataclass(frozen=True)
class Kept:
    """A picture of a canvas's size, of which some columns stay; what the others hold does not matter."""

    image: Image.Image
    spans: tuple[tuple[int, int], ...]
    """Columns in pixels, ends excluded."""

    def resized(self, height: int, width: int) -> Kept:
        """The same at another size, of spans what whole columns of it cover."""
        ratio = width / self.image.width
        spans = tuple((_up(a * ratio), int(b * ratio)) for a, b in self.spans)
        image = self.image.resize((width, height), Image.Resampling.LANCZOS)
        return Kept(image, tuple((a, b) for a, b in spans if b > a))

    def over(self, picture: Image.Image) -> Image.Image:
        """The picture with the kept columns in their places, and the others going on where those end."""
        pixels, own, reach = np.array(picture), np.asarray(self.image), picture.height
        laid = pixels.copy()
        for start, stop in self.spans:
            if stop < picture.width:
                laid[:, stop:] = joined(own[:, start:stop], pixels[:, start:stop], laid[:, stop:], reach)
            if start:
                old, there, new = own[:, start:stop], pixels[:, start:stop], laid[:, :start]
                laid[:, :start] = joined(old[:, ::-1], there[:, ::-1], new[:, ::-1], reach)[:, ::-1]
        for start, stop in self.spans:
            laid[:, start:stop] = own[:, start:stop]
        return Image.fromarray(laid)

    def latents(self, vae: Any) -> tuple[Tensor, Tensor]:
        """(scaled latents [1, C, h, w], 1 where they are kept [1, 1, 1, w]), float32 on the CPU.

        Each part is encoded by itself, so nothing of what is painted over reaches it.
        """
        factor = scale_factor(vae)
        height, width = self.image.height // factor, self.image.width // factor
        clean = torch.zeros(1, int(vae.config.latent_channels), height, width)
        mask = torch.zeros(1, 1, 1, width)
        for start, stop in self.spans:
            first, last = _up(start / factor), stop // factor
            if last > first:
                clean[..., first:last] = self._encoded(vae, first * factor, last * factor).cpu()
                mask[..., first:last] = 1
        return clean, mask

    def _encoded(self, vae: Any, start: int, stop: int) -> Tensor:
        factor = scale_factor(vae)
        pixels = np.asarray(self.image)[:, start:stop]
        margin = min(MARGIN, (stop - start - 1) // factor * factor)
        padded = np.pad(pixels, ((0, 0), (margin, margin), (0, 0)), mode="reflect")
        latents = encode_images(vae, from_pil([Image.fromarray(padded)]))
        return latents[..., margin // factor : latents.shape[-1] - margin // factor]


def _up(value: float) -> int:
    return -int(-value // 1)
