"""Winner and loser of a scroll of one window in one model call, and still a gradient for each.

Stage blueprint calls the network on one small scroll at a time, which leaves much of a machine idle. Both
scrolls in one batch give one gradient, of the batch. But the LoRA enters as plain matrix products, whose
gradient is a sum over the batch: taken over the first half it is g_w, over the second g_l. So one backward
pass fills both buffers, at no further cost (`train.product`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from train.adapters import forbid_reference
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
