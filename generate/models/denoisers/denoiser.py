"""The one face of every network that denoises: scaled latents, time, condition -> prediction."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from generate.models.attention import Choose


@dataclass(frozen=True, slots=True)
class Picture:
    """What a ControlNet is shown beside the latents."""

    pixels: Tensor
    """[S, 3, H, W] in 0..1, one for each sample"""
    scale: float
    """of the residuals that it adds"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network is told about S samples: G rows of embeddings, each for S / G samples in a row.

    The same tensors come back at every step, so that what depends on them alone is computed once a scroll.
    """

    text: Tensor
    """[G, T, d]"""
    pooled: Tensor | None = None
    """[G, p], of families that have it"""
    mask: Tensor | None = None
    """[G, T], 1 where a token counts, of families that are told (PixArt)"""
    images: tuple[Tensor, ...] = ()
    """an IP-Adapter's embeddings, each [G, images, d]"""
    sizes: Tensor | None = None
    """[S, 6]: SDXL's time ids; transformers take from them where a window lies"""
    guidance: float | None = None
    """the guidance scale, where the network itself is told (guidance-distilled ones)"""
    picture: Picture | None = None


class Denoiser(Protocol):
    """Evaluates a network; only here is known what kind of network it is."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def tells_sizes(self) -> bool:
        """Whether the network is told sizes (SDXL's micro-conditioning)."""
        ...

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network is told the guidance scale, so that one evaluation is guided already."""
        ...

    def attending(self, attention: Choose) -> AbstractContextManager[Any]:
        """Lets samples share rows of the condition inside the block; attention processors are ours there."""
        ...

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The prediction [S, C, h, w], float32, of scaled latents [S, C, h, w]; only inside `attending`."""
        ...
