"""Three orders of work for the same gradient: stream, two_pass, autograd. Each takes the scrolls of one part,
which share their calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.engine.buffers import Buffers
from train.engine.field import Blend
from train.engine.problem import SideResult


def stream(part: Sequence[Blend], buffers: Buffers) -> list[SideResult]:
    """Run windows in order; back-propagate and free each one when the last window overlapping it has run."""
    field = part[0].field
    alive: dict[int, Tensor] = {}
    peak = 0
    for step, group in enumerate(field.order.groups):
        with torch.enable_grad():
            alive[step] = field.predictions(part, group)
        _paste(part, group, alive[step].detach())
        peak = max(peak, sum(len(field.order.groups[k]) for k in alive))
        for ready in field.order.release[step]:
            buffers.backward(alive.pop(ready), part, field.order.groups[ready])
    return buffers.results(part, peak)


def two_pass(part: Sequence[Blend], buffers: Buffers) -> list[SideResult]:
    """First without gradient to complete A, then once more with gradient, a micro-batch at a time.

    The second pass replays the random state of the first, so dropout drops the same elements; afterwards the
    generators stand where one pass would have left them.
    """
    field = part[0].field
    device = part[0].side.latents.device
    states = []
    with torch.no_grad():
        for group in field.order.groups:
            states.append(RandomState.now(device))
            _paste(part, group, field.predictions(part, group))
    after = RandomState.now(device)
    for group, state in zip(field.order.groups, states, strict=True):
        state.restore()
        with torch.enable_grad():
            predictions = field.predictions(part, group)
        buffers.backward(predictions, part, group)
        del predictions
    after.restore()
    return buffers.results(part, max(len(group) for group in field.order.groups))


def autograd(part: Sequence[Blend], buffers: Buffers) -> list[SideResult]:
    """Keep every graph and differentiate E itself: the definition the other schedules are tested against."""
    field = part[0].field
    with torch.enable_grad():
        for group in field.order.groups:
            _paste(part, group, field.predictions(part, group))
        aggregates = [blend.aggregate() for blend in part]
        scaled = [blend.error(a) * a.numel() for blend, a in zip(part, aggregates, strict=True)]
        buffers.backward_scalar(sum(scaled[1:], scaled[0]), keep=buffers.anchor is not None)
        if buffers.anchor is not None:
            drift = (aggregates[0] - buffers.anchor.to(field.dtype)).square().sum()
            buffers.backward_scalar(drift, anchor=True)
    for blend in part:
        blend.numerator = blend.numerator.detach()
    return buffers.results(part, len(field.problem.windows))


def _paste(part: Sequence[Blend], group: Sequence[int], predictions: Tensor) -> None:
    for blend, own in zip(part, predictions.chunk(len(part)), strict=True):
        blend.paste(group, own)


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
