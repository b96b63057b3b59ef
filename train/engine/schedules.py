"""Three orders of work for the same gradient: stream, two_pass, autograd; and the buffers they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.engine.field import Field
from train.engine.problem import Side, SideResult
from train.lora.adapters import forbid_reference


def stream(side: Side, parameters: list[Tensor], anchor: Tensor | None) -> SideResult:
    """Run windows in order; back-propagate and free each one when the last window overlapping it has run."""
    field, buffers = Field(side), Buffers(parameters, anchor)
    alive: dict[int, Tensor] = {}
    peak = 0
    for step, group in enumerate(field.plan.groups):
        with torch.enable_grad():
            alive[step] = field.predictions(group)
        field.paste(group, alive[step].detach())
        peak = max(peak, sum(len(field.plan.groups[k]) for k in alive))
        for ready in field.plan.release[step]:
            buffers.backward(alive.pop(ready), field, field.plan.groups[ready])
    return buffers.result(field, peak)


def two_pass(side: Side, parameters: list[Tensor], anchor: Tensor | None) -> SideResult:
    """First without gradient to complete A, then once more with gradient, a micro-batch at a time.

    The second pass replays the random state of the first, so dropout drops the same elements; afterwards the
    generators stand where one pass would have left them.
    """
    field, buffers = Field(side), Buffers(parameters, anchor)
    states = []
    with torch.no_grad():
        for group in field.plan.groups:
            states.append(RandomState.now(side.latents.device))
            field.paste(group, field.predictions(group))
    after = RandomState.now(side.latents.device)
    for group, state in zip(field.plan.groups, states, strict=True):
        state.restore()
        with torch.enable_grad():
            predictions = field.predictions(group)
        buffers.backward(predictions, field, group)
        del predictions
    after.restore()
    return buffers.result(field, max(len(group) for group in field.plan.groups))


def autograd(side: Side, parameters: list[Tensor], anchor: Tensor | None) -> SideResult:
    """Keep every graph and differentiate E itself: the definition the other schedules are tested against."""
    field, buffers = Field(side), Buffers(parameters, anchor)
    with torch.enable_grad():
        for group in field.plan.groups:
            field.paste(group, field.predictions(group))
        aggregate = field.aggregate()
        scaled = field.error_tensor(aggregate, side.target) * aggregate.numel()
        buffers.backward_scalar(scaled, keep=anchor is not None)
        if anchor is not None:
            drift = (aggregate - anchor.to(field.dtype)).square().sum()
            buffers.backward_scalar(drift, anchor=True)
    field.numerator = field.numerator.detach()
    return buffers.result(field, len(side.windows))


class Buffers:
    """Where the gradients of E, and of the anchor if there is one, add up, through the parameters' .grad."""

    def __init__(self, parameters: list[Tensor], anchor: Tensor | None) -> None:
        self.parameters = parameters
        self.anchor = anchor
        self.grads: list[Tensor | None] = [None] * len(parameters)
        self.anchor_grads: list[Tensor | None] = [None] * len(parameters)

    def backward(self, predictions: Tensor, field: Field, group: Sequence[int]) -> None:
        """Push a micro-batch's share of D x dE/dA, and of the anchor, into the buffers and free its graph."""
        forbid_reference()
        self._into(predictions, field.pull(group).to(predictions.dtype), keep=self.anchor is not None)
        if self.anchor is not None:
            pull = field.anchor_pull(group, self.anchor).to(predictions.dtype)
            self._into(predictions, pull, anchor=True)

    def backward_scalar(self, scaled: Tensor, *, keep: bool = False, anchor: bool = False) -> None:
        """The same for a scalar that already carries the factor D."""
        forbid_reference()
        self._into(scaled, torch.ones_like(scaled), keep=keep, anchor=anchor)

    def _into(self, output: Tensor, pull: Tensor, *, keep: bool = False, anchor: bool = False) -> None:
        buffer = self.anchor_grads if anchor else self.grads
        for p, grad in zip(self.parameters, buffer, strict=True):
            p.grad = grad
        torch.autograd.backward(output, pull, retain_graph=keep, inputs=self.parameters)
        for index, p in enumerate(self.parameters):
            buffer[index], p.grad = p.grad, None

    def result(self, field: Field, peak: int) -> SideResult:
        """Divide by D, and report the errors of the finished average."""
        aggregate = field.aggregate()
        grads = self._finished(self.grads, aggregate.numel())
        result = SideResult(field.error(aggregate, field.side.target), aggregate, grads, alive_peak=peak)
        if self.anchor is not None:
            result.drift = float((aggregate - self.anchor.to(field.dtype)).square().mean())
            result.anchor_grads = self._finished(self.anchor_grads, aggregate.numel())
        return result

    def _finished(self, buffer: list[Tensor | None], numel: int) -> list[Tensor]:
        done = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, buffer, strict=True)]
        torch._foreach_div_(done, numel)
        return done


@dataclass(frozen=True, slots=True)
class RandomState:
    """The generators that dropout draws from: the CPU's, and the device's own."""

    cpu: Tensor
    device: torch.device
    cuda: Tensor | None

    @staticmethod
    def now(device: torch.device) -> RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return RandomState(torch.get_rng_state(), device, cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
