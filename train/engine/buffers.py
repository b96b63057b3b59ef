"""Where the gradients of a part's scrolls add up while its windows are back-propagated one after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.engine.field import Blend
from train.engine.problem import SideResult
from train.lora.adapters import forbid_reference


class Buffers:
    """The gradients of E, and of the anchor if there is one, by the leaves, added up through their .grad.

    leaves: the parameters themselves for a part of one scroll; for several, tensors [scrolls, ...] that hold
    a copy of each parameter per scroll. anchor: A_ref of the part's only scroll.
    """

    def __init__(self, leaves: Sequence[Tensor], anchor: Tensor | None = None) -> None:
        self.leaves = list(leaves)
        self.anchor = anchor
        self.grads: list[Tensor | None] = [None] * len(self.leaves)
        self.anchor_grads: list[Tensor | None] = [None] * len(self.leaves)

    def backward(self, predictions: Tensor, part: Sequence[Blend], group: Sequence[int]) -> None:
        """Push a micro-batch's share of D x dE/dA, and of the anchor, into the buffers and free its graph."""
        forbid_reference()
        pull = torch.cat([blend.pull(group) for blend in part])
        self._into(predictions, pull.to(predictions.dtype), keep=self.anchor is not None)
        if self.anchor is not None:
            pull = part[0].anchor_pull(group, self.anchor)
            self._into(predictions, pull.to(predictions.dtype), anchor=True)

    def backward_scalar(self, scaled: Tensor, *, keep: bool = False, anchor: bool = False) -> None:
        """The same for a scalar that already carries the factor D."""
        forbid_reference()
        self._into(scaled, torch.ones_like(scaled), keep=keep, anchor=anchor)

    def _into(self, output: Tensor, pull: Tensor, *, keep: bool = False, anchor: bool = False) -> None:
        buffer = self.anchor_grads if anchor else self.grads
        for leaf, grad in zip(self.leaves, buffer, strict=True):
            leaf.grad = grad
        torch.autograd.backward(output, pull, retain_graph=keep, inputs=self.leaves)
        for index, leaf in enumerate(self.leaves):
            buffer[index], leaf.grad = leaf.grad, None

    def results(self, part: Sequence[Blend], peak: int) -> list[SideResult]:
        """Divide by D, and report the errors of the finished averages, one result per scroll."""
        numel = part[0].numerator.numel()
        grads = self._finished(self.grads, numel)
        found = []
        for index, blend in enumerate(part):
            aggregate = blend.aggregate()
            own = grads if len(part) == 1 else [grad[index] for grad in grads]
            found.append(SideResult(float(blend.error(aggregate)), aggregate, own, alive_peak=peak))
        if self.anchor is not None:
            gap = found[0].aggregate - self.anchor.to(found[0].aggregate.dtype)
            found[0].drift = float(gap.square().mean())
            found[0].anchor_grads = self._finished(self.anchor_grads, numel)
        return found

    def _finished(self, buffer: list[Tensor | None], numel: int) -> list[Tensor]:
        done = [torch.zeros_like(p) if g is None else g for p, g in zip(self.leaves, buffer, strict=True)]
        torch._foreach_div_(done, numel)
        return done
