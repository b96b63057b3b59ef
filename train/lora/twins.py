"""A LoRA for each scroll of a batch of two: one backward pass, and still g_w and g_l apart.

The LoRA of a layer enters as y = base(x) + s (x A^T) B^T (Hu et al. 2021, arXiv 2106.09685, eq. 3). With A
and B repeated along the batch, [2, r, in] and [2, out, r], the products are batched ones of the same cost,
and autograd's gradient by the repeated matrices is the winner's in the first row, the loser's in the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.engine.problem import Trainable
from train.lora.adapters import LoraLayer, lora_layers, lora_parameters, reference, replaced_forwards
from train.lora.lean import lean


def trainable(network: Any) -> Trainable:
    """The LoRA of this network as the gradient engine sees it."""
    both = (lambda: twins(network)) if can_twin(network) else None
    return Trainable(lora_parameters(network), lambda: reference(network), both, lambda: lean(network))


@contextmanager
def twins(network: Any) -> Iterator[list[Tensor]]:
    """Inside, each half of a batch sees a LoRA of its own, equal in value; gives them as leaves [2, ...] in
    the order of `lora_parameters`."""
    leaves = {id(p): p.detach().expand(2, *p.shape).requires_grad_() for p in lora_parameters(network)}
    with replaced_forwards(
        lora_layers(network), lambda layer: _Twin(layer, leaves[id(layer.a)], leaves[id(layer.b)])
    ):
        yield list(leaves.values())


def can_twin(network: Any) -> bool:
    """True where `twins` knows every layer of the LoRA: all are linear."""
    return all(isinstance(layer.base, nn.Linear) for layer in lora_layers(network))


@dataclass(frozen=True, slots=True)
class _Twin:
    """The forward of one layer."""

    layer: LoraLayer
    a: Tensor
    b: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        plain: Tensor = self.layer.base(x)
        # As peft: in the LoRA's own precision, unless autocast lowers it.
        seen = self.layer.dropout(x.to(self.a.dtype)).reshape(2, -1, x.shape[-1])
        # Transposed products, so that autograd's gradients by A and B lie in memory as A and B do.
        change = torch.bmm(self.b, torch.bmm(self.a, seen.mT))
        if self.layer.scale != 1:
            change = change * self.layer.scale
        return plain + change.mT.reshape(plain.shape).to(plain.dtype)
