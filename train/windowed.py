"""The exact gradient of the scroll error (eq. 19) over windows, in constant memory.

Equation 19 couples the windows in two ways only: locally, through the averaged prediction A (a window needs the
windows that overlap it), and globally, through one scalar per scroll that multiplies the whole gradient and is not
needed until the end. So windows run in order with gradient, and as soon as everything that overlaps a window has run,
that window is back-propagated with its crop of dE/dA and freed. docs/mathematics.md has the derivation and a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from generate.windows import Window
from train.adapters import forbid_reference
from train.order import Plan, plan_stream

Predict = Callable[[Tensor, list[Window]], Tensor]
Schedule = Literal["stream", "two_pass", "autograd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One scroll: what the network sees, what it should say, and how its windows are averaged."""

    latents: Tensor
    """Noisy scroll J_t [1, C, H, W]."""
    target: Tensor
    """What a perfect A equals [1, C, H, W]."""
    windows: tuple[Window, ...]
    weights: Tensor
    """W_i [h, w], positive, the same for every window."""
    predict: Predict
    """(crops [n, C, h, w], their windows) -> predictions [n, C, h, w]; knows t, prompt and time ids."""
    micro_batch: int = 1
    error_weight: Literal["uniform", "overlap"] = "uniform"
    error_scale: float = 1.0
    """Constant factor on E (loss_space=epsilon for other targets)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One preference pair at one timestep: two noisy scrolls with their targets, seen by the same network."""

    latents_w: Tensor
    latents_l: Tensor
    noise_w: Tensor
    """Target of the winner: the noise itself for an epsilon model (`train.targets` for others)."""
    noise_l: Tensor
    windows: tuple[Window, ...]
    weights: Tensor
    predict: Predict
    micro_batch: int = 1
    error_weight: Literal["uniform", "overlap"] = "uniform"
    error_scale: float = 1.0

    def side(self, which: Literal["w", "l"]) -> Side:
        """The winner's or the loser's scroll."""
        latents, target = (self.latents_w, self.noise_w) if which == "w" else (self.latents_l, self.noise_l)
        return Side(
            latents=latents,
            target=target,
            windows=self.windows,
            weights=self.weights,
            predict=self.predict,
            micro_batch=self.micro_batch,
            error_weight=self.error_weight,
            error_scale=self.error_scale,
        )


@dataclass(slots=True)
class SideResult:
    """One scroll's error and the gradient of that error by the trainable parameters."""

    error: float
    aggregate: Tensor
    """A [1, C, H, W], detached."""
    grads: list[Tensor]
    """dE/dtheta, one tensor per parameter, in their order."""
    drift: float = 0.0
    """mean (A - A_ref)^2, where an anchor was given."""
    anchor_grads: list[Tensor] | None = None
    """d drift / dtheta."""
    alive_peak: int = 0
    """Most windows whose graphs were alive at once."""


def errors(side: Side) -> tuple[float, Tensor]:
    """Error E and aggregate A [1, C, H, W] of one scroll, without gradient: the reference pass and validation.

    Windows run in the same micro-batches and order as in `gradients`, so that an untrained LoRA gives the same bits.
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
    """E, A and dE/dtheta of one scroll by the chosen schedule; all three give the same numbers up to rounding.

    stream: one forward per window, at most ceil(window/stride) windows alive. two_pass: one window alive, a second
    forward with the same dropout masks. autograd: every window alive. anchor: A_ref, to get d mean (A - A_ref)^2 too.
    The parameters' .grad is left as it was. Raises RuntimeError inside `train.adapters.reference`.
    """
    forbid_reference()
    run = {"stream": _stream, "two_pass": _two_pass, "autograd": _autograd}[schedule]
    kept = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        return run(side, list(parameters), anchor)
    finally:
        for p, grad in zip(parameters, kept, strict=True):
            p.grad = grad


class Field:
    """The running average over a scroll's windows: numerator, weight sum, and the pull of E on one window."""

    def __init__(self, side: Side) -> None:
        self.side = side
        height, width = side.latents.shape[-2:]
        self.plan: Plan = plan_stream(side.windows, side.micro_batch)
        self.dtype = torch.promote_types(side.target.dtype, torch.float32)
        self.weights = side.weights.to(side.latents.device, self.dtype)
        self.total = torch.zeros(height, width, dtype=self.dtype, device=side.latents.device)
        self.counts = torch.zeros_like(self.total)
        for window in side.windows:
            self.total[_area(window)].add_(self.weights)
            self.counts[_area(window)].add_(1)
        _require_cover(side.windows, self.total)
        self.numerator = torch.zeros_like(side.target, dtype=self.dtype)
        self.importance = self._importance()

    def predictions(self, group: Sequence[int]) -> Tensor:
        """The network's output for one micro-batch of windows [n, C, h, w]."""
        windows = [self.side.windows[i] for i in group]
        crops = torch.cat([self.side.latents[_area(window)] for window in windows])
        return self.side.predict(crops, windows)

    def paste(self, group: Sequence[int], predictions: Tensor) -> None:
        """Add W_i p_i of one micro-batch to the numerator of eq. 4, in float32 or better."""
        for index, prediction in zip(group, predictions, strict=True):
            self.numerator[_area(self.side.windows[index])].add_(self.weights * prediction.to(self.dtype))

    def aggregate(self) -> Tensor:
        """A = sum_i F_i^-1(W_i p_i) / sum_i F_i^-1(W_i)."""
        return self.numerator / self.total

    def error_tensor(self, aggregate: Tensor, target: Tensor) -> Tensor:
        """Mean over elements of importance x (A - target)^2: a scalar tensor."""
        return (self.importance * (aggregate - target.to(self.dtype)).square()).mean()

    def error(self, aggregate: Tensor, target: Tensor) -> float:
        """The same as a float."""
        return float(self.error_tensor(aggregate, target))

    def pull(self, index: int, target: Tensor) -> Tensor:
        """D x dE/dp_i = 2 importance (W_i / sum W) (A - target) on window i [1, C, h, w], D elements in the scroll.

        Multiplied by D because 1/D alone is below float16's normal range; the engine divides at the end. Only the
        window's own area is read, so it is right as soon as that area is complete.
        """
        area = _area(self.side.windows[index])
        gap = self.numerator[area] / self.total[area] - target[area].to(self.dtype)
        return 2 * self.importance[area] * (self.weights / self.total[area]) * gap

    def pulls(self, group: Sequence[int], target: Tensor) -> Tensor:
        """`pull` for a micro-batch [n, C, h, w]."""
        return torch.cat([self.pull(index, target) for index in group])

    def _importance(self) -> Tensor:
        """Weights of latent elements in E [H, W]: constant, or proportional to the overlap count N with mean one."""
        if self.side.error_weight == "overlap":
            return self.side.error_scale * self.counts / self.counts.mean()
        return torch.full_like(self.total, self.side.error_scale)


def _stream(side: Side, parameters: list[Tensor], anchor: Tensor | None) -> SideResult:
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


def _two_pass(side: Side, parameters: list[Tensor], anchor: Tensor | None) -> SideResult:
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


def _autograd(side: Side, parameters: list[Tensor], anchor: Tensor | None) -> SideResult:
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
    """Where the gradients of E, and of the anchor if there is one, add up; .grad itself is the first buffer."""

    def __init__(self, parameters: list[Tensor], anchor: Tensor | None) -> None:
        self.parameters = parameters
        self.anchor = anchor
        self.grads: list[Tensor | None] = [None] * len(parameters)
        self.anchor_grads: list[Tensor | None] = [None] * len(parameters)

    def backward(self, predictions: Tensor, field: Field, group: Sequence[int]) -> None:
        """Push a micro-batch's share of D x dE/dA, and of the anchor, into the buffers and free its graph."""
        forbid_reference()
        pull = field.pulls(group, field.side.target).to(predictions.dtype)
        self._into(predictions, pull, keep=self.anchor is not None)
        if self.anchor is not None:
            plain = _unweighted(field)
            self._into(predictions, plain.pulls(group, self.anchor).to(predictions.dtype), anchor=True)

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
        for grad in done:
            grad.div_(numel)
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


def _require_cover(windows: Sequence[Window], total: Tensor) -> None:
    """ValueError unless the windows lie on the canvas and leave no latent out: E is a mean over all of them."""
    height, width = total.shape
    if any(w.y0 < 0 or w.x0 < 0 or w.y1 > height or w.x1 > width for w in windows):
        raise ValueError(f"a window leaves the canvas of {height} x {width} latents; training does not wrap")
    if not bool((total > 0).all()):
        raise ValueError(f"the windows leave part of the {height} x {width} latents uncovered")


def _unweighted(field: Field) -> Field:
    """A view of the field whose error is the plain mean square, which is what the anchor measures."""
    plain = object.__new__(Field)
    plain.__dict__.update(field.__dict__)
    plain.side = replace(field.side, error_weight="uniform", error_scale=1.0)
    plain.importance = torch.ones_like(field.total)
    return plain


def _area(window: Window) -> tuple:
    """Index of a window's latents, whatever dimensions come before."""
    return (..., slice(window.y0, window.y1), slice(window.x0, window.x1))
