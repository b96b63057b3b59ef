"""The exact gradient of the scroll error (eq. 19) over windows, in constant memory.

Equation 19 couples the windows in two ways only: locally, through the averaged prediction A (a window needs
the windows that overlap it), and globally, through one scalar per scroll that multiplies the whole gradient
and is not needed until the end. So windows run in order with gradient, and as soon as everything that
overlaps a window has run, that window is back-propagated with its crop of dE/dA and freed.
docs/mathematics.md has the derivation and a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from train.engine.field import Field
from train.engine.problem import Predict, Problem, Side, SideResult
from train.engine.schedules import autograd, stream, two_pass
from train.lora.adapters import forbid_reference

__all__ = ["Predict", "Problem", "Schedule", "Side", "SideResult", "errors", "gradients"]

Schedule = Literal["stream", "two_pass", "autograd"]


def errors(side: Side) -> tuple[float, Tensor]:
    """Error E and aggregate A [1, C, H, W] of one scroll, without gradient: the reference pass and
    validation.

    Windows run in the same micro-batches and order as in `gradients`, so that an untrained LoRA gives the
    same bits.
    """
    with torch.no_grad():
        field = Field(side)
        for group in field.plan.groups:
            field.paste(group, field.predictions(group))
        aggregate = field.aggregate()
        return field.error(aggregate, side.target), aggregate


def gradients(
    side: Side, parameters: Sequence[Tensor], schedule: Schedule = "stream", anchor: Tensor | None = None
) -> SideResult:
    """E, A and dE/dtheta of one scroll by the chosen schedule; all three give the same numbers up to
    rounding.

    stream: one forward per window, at most ceil(window/stride) windows alive. two_pass: one window alive, a
    second forward with the same dropout masks. autograd: every window alive. anchor: A_ref, to get d mean (A
    - A_ref)^2 too. The parameters' .grad is left as it was. Raises RuntimeError inside
    `train.lora.adapters.reference`.
    """
    forbid_reference()
    run = {"stream": stream, "two_pass": two_pass, "autograd": autograd}[schedule]
    kept = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        return run(side, list(parameters), anchor)
    finally:
        for p, grad in zip(parameters, kept, strict=True):
            p.grad = grad
