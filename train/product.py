"""The product of a layer that carries a LoRA, and its gradient, in the order of work that costs less.

y = x W^T + s (x A^T) B^T with A [r, in], B [out, r], s = alpha / rank (LoRA, Hu et al. 2021, arXiv
2106.09685, eq. 3). Through the two small matrices a layer does 3 n r (in + out) multiplications more for n
tokens, forward and backward. Where the layer is narrow against the rank, as in small networks, it is cheaper
to add s B A to W first and to project the gradient of that sum, D = g^T x, on both matrices: dA = s B^T D,
dB = s D A^T. Both orders give the same numbers up to rounding. In half precision the sum would round small
steps away, so there, and with dropout, which acts between x and A, only the first serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.adapters import LoraLayer, lora_layers, replaced_forwards

Halves = dict[int, Tensor]
"""Gradient of the batch's second half, by the parameter's id."""


@contextmanager
def lora_products(unet: Any, second: Halves | None = None) -> Iterator[None]:
    """Inside, the UNet's LoRA layers multiply in the cheaper order.

    second: a backward pass then gives the parameters the gradient of the batch's first half, and this
    dictionary that of the second. Layers other than linear ones keep peft's product (see `splits`).
    """
    layers = [layer for layer in lora_layers(unet) if isinstance(layer.base, nn.Linear)]
    with replaced_forwards(layers, lambda layer: _Product(layer, second)):
        yield


@contextmanager
def halves(unet: Any) -> Iterator[Halves]:
    """`lora_products` with its dictionary: g_w and g_l from one backward pass over both scrolls."""
    second: Halves = {}
    with lora_products(unet, second):
        yield second


def splits(unet: Any) -> bool:
    """True where `halves` can tell the halves apart: all LoRA layers are linear."""
    return all(isinstance(layer.base, nn.Linear) for layer in lora_layers(unet))


@dataclass(frozen=True, slots=True)
class _Product:
    """The forward of one LoRA layer."""

    layer: LoraLayer
    second: Halves | None

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        dropped = None if isinstance(layer.dropout, nn.Identity) else layer.dropout(x)
        dense = dropped is None and dense_is_cheaper(x, layer.base.weight, layer.a)
        product: Tensor = _LoraProduct.apply(
            x, dropped, layer.a, layer.b, layer.base, layer.scale, dense, self.second
        )
        return product


def dense_is_cheaper(x: Tensor, weight: Any, a: Tensor) -> bool:
    """Whether W + s B A costs fewer multiplications for x [..., in], in a type wide enough for the sum."""
    (rank, width), out = a.shape, weight.shape[0]
    tokens = x.numel() // width
    wide = {x.dtype, weight.dtype, a.dtype} in ({torch.float32}, {torch.float64})
    through_the_sum = (tokens + 3 * rank) * width * out
    return wide and not _autocast(x) and through_the_sum < 3 * tokens * rank * (width + out)


class _LoraProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, a: Tensor, b: Tensor, base: nn.Linear, scale: float,
        dense: bool, second: Halves | None,
    ) -> Tensor:  # fmt: skip
        ctx.base, ctx.scale, ctx.dense, ctx.second, ctx.keys = base, scale, dense, second, (id(a), id(b))
        if dense:
            ctx.save_for_backward(x, dropped, a, b, None)
            return functional.linear(x, torch.addmm(base.weight, b, a, alpha=scale), base.bias)
        plain = functional.linear(x, base.weight, base.bias)
        kind = _autocast(x) or a.dtype  # as peft: the LoRA's own precision, unless autocast lowers it
        down = (x if dropped is None else dropped).to(kind) @ a.to(kind).T
        ctx.save_for_backward(x, dropped, a, b, down)
        return plain + ((down @ b.to(kind).T) * scale).to(plain.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        through = _back_through_the_sum if ctx.dense else _back_through_both
        by_x, by_dropped, parts = through(ctx, grad)
        if ctx.second is not None:
            for key, part in zip(ctx.keys, parts[1], strict=True):
                known = ctx.second.get(key)
                ctx.second[key] = part if known is None else known + part
        return by_x, by_dropped, *parts[0], None, None, None, None


Back = tuple[Tensor | None, Tensor | None, list[tuple[Tensor, Tensor]]]
"""Gradients by x and by dropped x, and (by A, by B) of the batch or of each half."""


def _back_through_the_sum(ctx: Any, grad: Tensor) -> Back:
    x, _, a, b, _ = ctx.saved_tensors
    by_x = None
    if ctx.needs_input_grad[0]:
        by_x = grad @ torch.addmm(ctx.base.weight, b, a, alpha=ctx.scale)
    sums = [_outer(g, seen).mul_(ctx.scale) for g, seen in _parts(ctx, grad, x)]
    return by_x, None, [(b.T @ each, each @ a.T) for each in sums]


def _back_through_both(ctx: Any, grad: Tensor) -> Back:
    x, dropped, a, b, down = ctx.saved_tensors
    low = grad.to(down.dtype)
    up = (low @ b.to(down.dtype)) * ctx.scale
    seen = (x if dropped is None else dropped).to(down.dtype)
    by_x = (grad @ ctx.base.weight.to(grad.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
    by_seen = up @ a.to(down.dtype) if any(ctx.needs_input_grad[:2]) else None
    if dropped is None and by_x is not None and by_seen is not None:
        by_x, by_seen = by_x + by_seen.to(by_x.dtype), None
    by_dropped = None if dropped is None or by_seen is None else by_seen.to(dropped.dtype)
    by_a = [_outer(*each).to(a.dtype) for each in _parts(ctx, up, seen)]
    by_b = [_outer(*each).mul_(ctx.scale).to(b.dtype) for each in _parts(ctx, low, down)]
    return by_x, by_dropped, list(zip(by_a, by_b, strict=True))


def _parts(ctx: Any, a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both tensors of the whole batch, or of each half of it."""
    return zip(*((each,) if ctx.second is None else each.chunk(2) for each in (a, b)), strict=True)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """a^T b over all tokens: [p, q] from [..., p] and [..., q]."""
    return a.flatten(0, -2).T @ b.flatten(0, -2)


def _autocast(x: Tensor) -> torch.dtype | None:
    """The type that autocast lowers products to here, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
