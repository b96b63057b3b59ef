"""The LoRA of linear layers in fewer kernels than peft's, and bit for bit its numbers.

y = base(x) + s B A x (Hu et al. 2021, arXiv 2106.09685, eq. 3) is three matrix products and a sum. Around
them peft casts x up to the LoRA's precision, autocast casts it down again and A and B with it in every
call, and the product is multiplied by s even where that is 1. A fast card waits for the program that starts
its kernels, and these are many. A cast up and down again changes nothing, so neither does leaving it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from train.lora.adapters import LoraLayer, lora_layers, replaced_forwards

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def lean(network: Any) -> Iterator[None]:
    """Inside, the linear layers of the LoRA compute what peft does, from A and B that are cast down once.

    Parameters must not change inside. A gradient goes through the cast to the parameters themselves.
    """
    layers = [layer for layer in lora_layers(network) if isinstance(layer.base, nn.Linear)]
    with replaced_forwards(layers, _Lean.of):
        yield


def lowered(value: Tensor, layer: LoraLayer) -> Tensor:
    """A or B as autocast hands it to a product beside a base in half precision; itself beside any other."""
    dtype = layer.base.weight.dtype
    if dtype not in HALF or value.dtype == dtype:
        return value
    with torch.enable_grad():
        return value.to(dtype)


@dataclass(frozen=True, slots=True)
class _Lean:
    """The forward of one layer."""

    layer: LoraLayer
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, layer: LoraLayer) -> _Lean:
        return cls(layer, lowered(layer.a, layer), lowered(layer.b, layer))

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        plain: Tensor = layer.base(x)
        kind = x.device.type
        casts = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == self.a.dtype
        # Without autocast the products are in the LoRA's own precision, and dropout always is.
        a, b = (self.a, self.b) if casts else (layer.a, layer.b)
        seen = x if casts and isinstance(layer.dropout, nn.Identity) else layer.dropout(x.to(layer.a.dtype))
        change = linear(linear(seen, a), b)
        if layer.scale != 1:
            change = change * layer.scale
        return (plain + change).to(plain.dtype)
