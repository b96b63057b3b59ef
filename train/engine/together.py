"""Winner and loser of a scroll of one window in one model call, and still a gradient for each.

Stage blueprint calls the network on one small scroll at a time, which leaves much of a machine idle. Both
scrolls in one batch give one gradient, of the batch; with a LoRA for each of them (`train.lora.twins`) one
backward pass gives g_w and g_l.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from train.engine.field import Field
from train.engine.problem import Problem, SideResult
from train.lora.adapters import forbid_reference

Twins = Callable[[], AbstractContextManager[list[Tensor]]]


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


def gradients_together(problem: Problem, twins: Twins) -> tuple[SideResult, SideResult]:
    """E, A and dE/dtheta of winner and of loser from one forward and one backward pass.

    twins: `lambda: twins(unet)`. The parameters' .grad is not touched.
    """
    forbid_reference()
    with twins() as leaves:
        with torch.enable_grad():
            predictions = _predictions(problem)
        fields = _pasted(problem, predictions.detach())
        pulls = torch.cat([field.pull((0,)) for field in fields]).to(predictions.dtype)
        grads = torch.autograd.grad(predictions, leaves, pulls, allow_unused=True)
    by_leaf = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True)]
    winner, loser = (_result(field, [g[side] for g in by_leaf]) for side, field in enumerate(fields))
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
    torch._foreach_div_(grads, aggregate.numel())
    return SideResult(field.error(aggregate, field.side.target), aggregate, grads, alive_peak=1)
