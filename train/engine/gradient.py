"""The exact gradient of the scroll error (eq. 19) over windows, in constant memory, for both scrolls.

Equation 19 couples the windows in two ways only: locally, through the averaged prediction A (a window needs
the windows that overlap it), and globally, through one scalar per scroll that multiplies the whole gradient
and is not needed until the end. So windows run in order with gradient, and as soon as everything that
overlaps a window has run, that window is back-propagated with its crop of dE/dA and freed.
docs/mathematics.md has the derivation and a picture.

Where scrolls share their calls (`Problem.together`), each sees a copy of the LoRA of its own
(`train.lora.twins`), so that one backward pass still gives a gradient each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from train.engine.buffers import Buffers
from train.engine.field import Field
from train.engine.problem import Schedule, SideResult, Trainable
from train.engine.schedules import autograd, stream, two_pass
from train.lora.adapters import forbid_reference

SCHEDULES = {"stream": stream, "two_pass": two_pass, "autograd": autograd}


def errors(field: Field) -> list[tuple[float, Tensor]]:
    """Error E and aggregate A [1, C, H, W] of each scroll, without gradient: reference and validation.

    Windows run in the same micro-batches and order as in `gradients`, so that an untrained LoRA gives the
    same bits.
    """
    found = []
    with torch.no_grad():
        for part in field.parts():
            for group in field.order.groups:
                predictions = field.predictions(part, group)
                for blend, own in zip(part, predictions.chunk(len(part)), strict=True):
                    blend.paste(group, own)
            averages = [blend.aggregate() for blend in part]
            found += [(float(blend.error(a)), a) for blend, a in zip(part, averages, strict=True)]
    return found


def gradients(
    field: Field, trainable: Trainable, schedule: Schedule = "stream", anchor: Tensor | None = None
) -> list[SideResult]:
    """E, A and dE/dtheta of each scroll; all three schedules give the same numbers up to rounding.

    stream: one forward per window, at most ceil(window/stride) windows alive. two_pass: one window alive, a
    second forward with the same dropout masks. autograd: every window alive. anchor: A_ref of the first
    scroll, to get d mean (A - A_ref)^2 too; not for scrolls that share their calls. The parameters' .grad is
    left as it was. Raises RuntimeError inside `train.lora.adapters.reference`.
    """
    forbid_reference()
    if anchor is not None and field.problem.together:
        raise ValueError("an anchor needs its scroll to itself: problem.together must be off")
    run, results = SCHEDULES[schedule], []
    with _kept_grads(trainable.parameters), nullcontext() if field.problem.together else trainable.on():
        for number, part in enumerate(field.parts()):
            if len(part) == 1:
                buffers = Buffers(trainable.parameters, anchor if number == 0 else None)
                results += run(part, buffers)
                continue
            if trainable.twins is None:
                raise ValueError("scrolls that share their calls need twins of the LoRA")
            with trainable.twins() as leaves:
                results += run(part, Buffers(leaves))
    return results


@contextmanager
def _kept_grads(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters hold no gradient; afterwards the one that they held before."""
    kept = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        yield
    finally:
        for p, grad in zip(parameters, kept, strict=True):
            p.grad = grad
