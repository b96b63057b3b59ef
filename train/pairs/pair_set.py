"""Prepared pairs: names of cache entries in the list, tensors when one is asked for."""

from dataclasses import dataclass

import torch

from train.pairs.cache import TensorCache


@dataclass(frozen=True, slots=True)
class ListedPair:
    """One pair as names of cache entries."""

    row: int
    pair_id: str
    prompt: str
    chosen: str
    rejected: str
    text: str
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One pair as tensors on the CPU, float32."""

    pair_id: str
    latents_w: torch.Tensor
    latents_l: torch.Tensor
    embeds: torch.Tensor
    pooled: torch.Tensor | None


class PairSet:
    """Prepared pairs that load one at a time from the cache."""

    def __init__(self, pairs: list[ListedPair], latents: TensorCache, texts: TensorCache) -> None:
        self.pairs, self.latents, self.texts = pairs, latents, texts

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EncodedPair:
        pair = self.pairs[index]
        text = self.texts.read(pair.text)
        latents_w = self.latents.read(pair.chosen)["latents"][None].float()
        latents_l = self.latents.read(pair.rejected)["latents"][None].float()
        return EncodedPair(pair.pair_id, latents_w, latents_l, text["embeds"].float(), text.get("pooled"))
