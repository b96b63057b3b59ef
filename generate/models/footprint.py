"""What networks need of a device's memory, counted from their configurations with no weights at all.

Networks are built on PyTorch's meta device, where tensors have shapes and no numbers, and one forward is run
there; a dispatch mode counts the bytes of all tensors that are alive at once.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def weight_bytes(network: Any) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(value.numel() * value.element_size() for value in (*network.parameters(), *network.buffers()))


@torch.no_grad()
def activation_bytes(forward: Callable[[], Any]) -> int:
    """The most bytes of intermediate tensors that are alive at once in a forward on the meta device.

    Attention is counted as the fused kernels compute it, without its table of scores. What kernels take for
    themselves and what the allocator loses between its blocks is not in it.
    """
    with _fused_attention(), _Alive() as alive:
        forward()
    return alive.peak


def hollow(network: Any) -> Any:
    """A copy of a network on the meta device, made without a copy of its numbers.

    What others hung onto it to count its calls stays behind.
    """
    memo: dict[int, Any] = {}
    for value in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(value, device="meta")
        learned = isinstance(value, torch.nn.Parameter)
        memo[id(value)] = torch.nn.Parameter(empty, value.requires_grad) if learned else empty
    made = copy.deepcopy(network, memo)
    for module in made.modules():
        vars(module).pop("forward", None)
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
    return made


class _Alive(TorchDispatchMode):
    """Counts the storage of tensors from their creation to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs or {}))
            if isinstance(leaf, torch.Tensor)
        }
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in before and storage._cdata not in self._known:
                    self._born(storage)
        return made

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as one operation that makes its output and nothing else."""
    plain = torch.nn.functional.scaled_dot_product_attention

    def fused(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        out: torch.Tensor = _Attention.apply(query, key, value)
        return out

    torch.nn.functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = plain


class _Attention(torch.autograd.Function):
    """Keeps for the gradient what the fused kernels keep: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        query, key, value, _out = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
