"""Winner and loser of a scroll of one window in one model call, and still a gradient for each.

Stage blueprint calls the network on one small scroll at a time, which leaves much of a machine idle. Both
scrolls in one batch give one gradient, of the batch. But the LoRA enters as plain matrix products, whose
gradient is a sum over the batch: taken over the first half it is g_w, over the second g_l. So one backward
pass fills both buffers, at no further cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from train.adapters import forbid_reference, named_lora_parameters
from train.field import Field
from train.problem import Problem, SideResult

Split = Callable[[], AbstractContextManager[dict[int, Tensor]]]


def fits_together(problem: Problem) -> bool:
    """True where one call may take both scrolls: they are one window each, and two windows per call are
    allowed."""
    return len(problem.windows) == 1 and problem.micro_batch > 1


def errors_together(problem: Problem) -> tuple[tuple[float, Tensor], tuple[float, Tensor]]:
    """Error E and aggregate A of winner and of loser, without gradient: the reference pass."""
    with torch.no_grad():
        fields = _pasted(problem, _predictions(problem))
    aggregates = [field.aggregate() for field in fields]
    winner, loser = (
        (field.error(aggregate, field.side.target), aggregate)
        for field, aggregate in zip(fields, aggregates, strict=True)
    )
    return winner, loser


def gradients_together(
    problem: Problem, parameters: Sequence[Tensor], split: Split
) -> tuple[SideResult, SideResult]:
    """E, A and dE/dtheta of winner and of loser from one forward and one backward pass.

    split: `lambda: halves(unet)`. The parameters' .grad is not touched.
    """
    forbid_reference()
    with split() as second:
        with torch.enable_grad():
            predictions = _predictions(problem)
        fields = _pasted(problem, predictions.detach())
        pulls = torch.cat([field.pull((0,)) for field in fields]).to(predictions.dtype)
        first = torch.autograd.grad(predictions, list(parameters), pulls, allow_unused=True)
    grads_w = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, first, strict=True)]
    grads_l = [second.get(id(p), torch.zeros_like(p)) for p in parameters]
    winner, loser = (_result(field, grads) for field, grads in zip(fields, (grads_w, grads_l), strict=True))
    return winner, loser


@contextmanager
def halves(unet: Any) -> Iterator[dict[int, Tensor]]:
    """Inside, a backward pass gives the LoRA the gradient of the batch's first half, and the dictionary that
    of the second, by the parameter's id."""
    second: dict[int, Tensor] = {}
    layers = [unet.get_submodule(name.rpartition(".")[0]) for name in named_lora_parameters(unet)]
    try:
        for layer in layers:
            layer.forward = _SplitProduct(layer.weight, second)
        yield second
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


class _SplitProduct:
    """The forward of one LoRA matrix."""

    def __init__(self, weight: Tensor, second: dict[int, Tensor]) -> None:
        self.weight, self.second = weight, second

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = _Halves.apply(x, self.weight, self.second)
        return product


class _Halves(torch.autograd.Function):
    """x W^T with the gradient by W of the first half of the batch; the second half's is put aside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, second: dict[int, Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.second, ctx.key = second, id(weight)
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        # Under autocast the product was made in half precision, and so are its gradients.
        seen, matrix = x.to(grad.dtype), weight.to(grad.dtype)
        by_half = [
            (g.flatten(0, -2).T @ half.flatten(0, -2)).to(weight.dtype)
            for g, half in zip(grad.chunk(2), seen.chunk(2), strict=True)
        ]
        known = ctx.second.get(ctx.key)
        ctx.second[ctx.key] = by_half[1] if known is None else known + by_half[1]
        return (grad @ matrix).to(x.dtype), by_half[0], None


def _predictions(problem: Problem) -> Tensor:
    """The network's output for both scrolls [2, C, H, W]."""
    return problem.predict(torch.cat([problem.latents_w, problem.latents_l]), [problem.windows[0]] * 2)


def _pasted(problem: Problem, predictions: Tensor) -> list[Field]:
    fields = [Field(problem.side("w")), Field(problem.side("l"))]
    for field, prediction in zip(fields, predictions, strict=True):
        field.paste((0,), prediction[None])
    return fields


def _result(field: Field, grads: list[Tensor]) -> SideResult:
    aggregate = field.aggregate()
    scaled = [grad.div_(aggregate.numel()) for grad in grads]
    return SideResult(field.error(aggregate, field.side.target), aggregate, scaled, alive_peak=1)
