"""Classifier-free guidance: what the UNet is told with and without the prompt, and how its answers join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generate.models.prompts import PromptEmbeddings

if TYPE_CHECKING:
    from generate.models.family import ModelFamily


@dataclass(frozen=True, slots=True)
class Condition:
    """What the UNet is told: one guidance half, or both with the unconditional first."""

    prompt: Tensor
    pooled: Tensor | None
    images: list[Tensor] | None


def guidance_halves(
    family: ModelFamily, embeddings: PromptEmbeddings, scale: float, images: list[Tensor] | None
) -> list[Condition]:
    """[unconditional, conditional]; without guidance (scale exactly 1) the conditional alone."""
    there = embeddings.to(family.device, family.dtype)
    conditional = Condition(there.prompt_embeds, there.pooled, _rows(images, -1))
    if scale == 1.0:
        return [conditional]
    return [Condition(there.negative_prompt_embeds, there.negative_pooled, _rows(images, 0)), conditional]


def _rows(images: list[Tensor] | None, row: int) -> list[Tensor] | None:
    return None if images is None else [image[row][None] for image in images]


def joined(halves: list[Condition]) -> Condition:
    """All halves as one condition, to be evaluated in one forward."""
    if len(halves) == 1:
        return halves[0]
    first, second = halves
    pooled = (
        None if first.pooled is None or second.pooled is None else torch.cat([first.pooled, second.pooled])
    )
    images = None
    if first.images is not None and second.images is not None:
        images = [torch.cat(pair) for pair in zip(first.images, second.images, strict=True)]
    return Condition(torch.cat([first.prompt, second.prompt]), pooled, images)


def guide(unconditional: Tensor, conditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """u + g (c - u) of predictions [n, C, h, w] (Ho and Salimans 2022, eq. 6).

    `rescale` is phi of Lin et al. 2023, section 3.4: the guided prediction brought back to the conditional
    one's standard deviation, each window's by itself, and mixed in by phi.
    """
    guided = unconditional + scale * (conditional - unconditional)
    if rescale == 0.0:
        return guided
    spread, wanted = (part.std(dim=(1, 2, 3), keepdim=True) for part in (guided, conditional))
    return rescale * (guided * wanted / spread) + (1 - rescale) * guided
