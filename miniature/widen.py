"""A trained UNet made twice as wide without changing what it computes (Net2Net, Chen et al. 2016).

Every channel becomes two equal neighbours; whatever reads them shares its weight between the two, unevenly
and by chance, so that the twins receive different gradients and part ways in training. Group and layer norms
see the same statistics, since a group holds each value twice. Attention doubles its heads rather than their
width: both copies of a head attend alike. The sinusoids of the time gain a frequency between each two, read
with weight zero at first.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

Network = TypeVar("Network", UNet2DConditionModel, ControlNetModel)
UNEVEN = 0.3  # of the half that each twin's reader gets, at most so much goes to the other twin


@torch.no_grad()
def widened(small: Network, seed: int = 0) -> Network:
    """A UNet or ControlNet with twice the channels and heads of `small` and the same function.

    Only those of the miniature are meant: text, picture and noise keep their widths, a head keeps its size.
    """
    config = dict(small.config)
    config["block_out_channels"] = tuple(2 * width for width in small.config.block_out_channels)
    config["attention_head_dim"] = tuple(2 * heads for heads in small.config.attention_head_dim)
    wide = type(small).from_config(config)
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: layer.heads for name, layer in small.named_modules() if hasattr(layer, "to_q")}
    values = small.state_dict()
    for name, target in wide.state_dict().items():
        target.copy_(_grown(name, values[name], target, sizes, generator))
    return wide


def _grown(
    name: str, value: Tensor, target: Tensor, heads: dict[str, int], generator: torch.Generator
) -> Tensor:
    """One tensor at the wide model's shape."""
    attention = next((heads[owner] for owner in heads if name.startswith(owner + ".")), None)
    if target.shape[0] == 2 * value.shape[0]:
        by_head = attention if name.rsplit(".", 2)[-2] in ("to_q", "to_k", "to_v") else None
        value = _twins(value, 0, by_head)
    if value.dim() > 1 and target.shape[1] == 2 * value.shape[1]:
        by_head = attention if ".to_out.0." in name else None
        value = _twins(value, 1, by_head) * _shares(name, value, by_head, generator)
    return value


def _twins(value: Tensor, axis: int, heads: int | None) -> Tensor:
    """Each channel of the axis twice; with `heads`, each head's whole run of channels twice."""
    if heads is None:
        return value.repeat_interleave(2, axis)
    return value.unflatten(axis, (heads, -1)).repeat_interleave(2, axis).flatten(axis, axis + 1)


def _shares(name: str, value: Tensor, heads: int | None, generator: torch.Generator) -> Tensor:
    """What each of the two twins gets of the weight that read their original: parts that add up to one."""
    if name == "time_embedding.linear_1.weight":  # the twin of a sinusoid is a new frequency, not a copy
        first = torch.ones_like(value)
    else:
        first = 0.5 + UNEVEN * (2 * torch.rand(value.shape, generator=generator) - 1)
    if heads is None:
        return torch.stack([first, 1 - first], 2).flatten(1, 2)
    first = first.unflatten(1, (heads, -1))
    return torch.stack([first, 1 - first], 2).flatten(1, 3)
