"""One preference pair to one LoRA gradient: reference pass, both scrolls, the loss, the combination."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from train.engine.field import Field
from train.engine.gradient import errors, gradients
from train.engine.problem import Problem, Schedule, SideResult, Trainable
from train.objective.losses import NOTHING, Context, needs_reference
from train.objective.preference import Geometry, LossResult, pair_loss
from train.objective.region import choose_windows, region_problem
from train.settings import LossSettings


@dataclass(frozen=True, slots=True)
class Reference:
    """The frozen model's errors on a pair, and its averaged predictions (None where only scalars were
    cached)."""

    error_w: float
    error_l: float
    aggregate_w: Tensor | None = None
    aggregate_l: Tensor | None = None


NO_REFERENCE = Reference(math.nan, math.nan)

Recall = Callable[[Callable[[], Reference]], Reference]
"""Gives the frozen model's answer: a kept one, or else what the function that it is handed finds out."""


def ask_anew(ask: Callable[[], Reference]) -> Reference:
    """The recall of those who keep nothing."""
    return ask()


@dataclass(slots=True)
class PairResult:
    """The loss of one pair, its gradient by the LoRA parameters (empty in validation), and what to log."""

    loss: float
    grads: list[Tensor]
    metrics: dict[str, float]
    reference: Reference

    @property
    def finite(self) -> bool:
        """False where the loss or a gradient overflowed: the step must be skipped."""
        seen = [self.loss, *(self.metrics.get(k, 0.0) for k in ("grad_norm_w", "grad_norm_l"))]
        return all(math.isfinite(value) for value in seen)


def reference_pass(field: Field, trainable: Trainable) -> Reference:
    """Errors and averages of the frozen model. Its calls are those of the policy's pass, or z would not start
    at exactly 0."""
    with trainable.off():
        (error_w, aggregate_w), (error_l, aggregate_l) = errors(field)
    return Reference(error_w, error_l, aggregate_w, aggregate_l)


def in_one_call(windows: int, micro_batch: int, settings: LossSettings, trainable: Trainable) -> bool:
    """True where winner and loser should share a call: they are one window each, two windows per call are
    allowed, and nothing needs the winner's graph alone."""
    alone = settings.reference_anchor > 0 or trainable.twins is None
    return windows == 1 and micro_batch > 1 and not alone


def pair_gradients(
    problem: Problem,
    trainable: Trainable,
    settings: LossSettings,
    *,
    schedule: Schedule = "stream",
    context: Context = NOTHING,
    recall: Recall = ask_anew,
    region_seed: int = 0,
) -> PairResult:
    """Loss, exact gradient dL/dtheta and metrics of one pair (eqs 19 and 23); problem.sides: winner, loser.

    recall: where the reference's answer may be known already; region_seed: makes the draw of the region
    term's window a function of the step. At most three LoRA-sized buffers live at once (two, plus one with
    the region term or the anchor). The parameters' .grad is not touched.
    """
    field = Field(problem)
    seen = _reference(field, trainable, settings, recall)
    winner, loser = gradients(field, trainable, schedule, _anchor(seen, settings))
    geometry = _geometry(winner, loser)
    context = replace(context, numel=winner.aggregate.numel(), drift=winner.drift)
    result = pair_loss(winner.error, loser.error, seen.error_w, seen.error_l, settings, context, geometry)
    grads = combine(winner, loser, result)
    metrics = dict(result.metrics) | _proxies(winner.aggregate, loser.aggregate, seen)
    metrics["alive_windows"] = float(max(winner.alive_peak, loser.alive_peak))
    total = PairResult(result.loss, grads, metrics, seen)
    if settings.region_weight > 0:
        del winner, loser
        _add_regions(total, problem, trainable, settings, schedule, context, region_seed)
    return total


def pair_errors(
    problem: Problem,
    trainable: Trainable,
    settings: LossSettings,
    *,
    context: Context = NOTHING,
    recall: Recall = ask_anew,
) -> PairResult:
    """Loss and metrics without gradient, for held-out pairs; grads is empty."""
    field = Field(problem)
    seen = _reference(field, trainable, settings, recall)
    (error_w, aggregate_w), (error_l, aggregate_l) = errors(field)
    proxies = _proxies(aggregate_w, aggregate_l, seen)
    context = replace(context, numel=aggregate_w.numel(), drift=proxies.get("kl_proxy_w", 0.0))
    result = pair_loss(error_w, error_l, seen.error_w, seen.error_l, settings, context)
    return PairResult(result.loss, [], dict(result.metrics) | proxies, seen)


def _reference(field: Field, trainable: Trainable, settings: LossSettings, recall: Recall) -> Reference:
    if not needs_reference(settings):
        return NO_REFERENCE
    return recall(lambda: reference_pass(field, trainable))


def combine(winner: SideResult, loser: SideResult, result: LossResult) -> list[Tensor]:
    """coef_w g_w + coef_l g_l (+ coef_anchor g_anchor), in the winner's buffer."""
    torch._foreach_mul_(winner.grads, result.coef_w)
    torch._foreach_add_(winner.grads, loser.grads, alpha=result.coef_l)
    if winner.anchor_grads is not None:
        torch._foreach_add_(winner.grads, winner.anchor_grads, alpha=result.coef_anchor)
    return winner.grads


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """<a, b> over lists of tensors, summed in float64 across tensors, with one wait for the device."""
    if not a:
        return 0.0
    return float(
        torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)])
        .double()
        .sum()
    )


def _geometry(winner: SideResult, loser: SideResult) -> Geometry:
    return Geometry(
        inner(winner.grads, winner.grads), inner(winner.grads, loser.grads), inner(loser.grads, loser.grads)
    )


def _anchor(seen: Reference, settings: LossSettings) -> Tensor | None:
    if settings.reference_anchor == 0:
        return None
    if seen.aggregate_w is None:
        raise ValueError("reference_anchor needs the reference's average itself, not only its cached error")
    return seen.aggregate_w


def _proxies(aggregate_w: Tensor, aggregate_l: Tensor, seen: Reference) -> dict[str, float]:
    """mean (A - A_ref)^2 of both scrolls: the KL of the two models at this t, up to its factor."""
    if seen.aggregate_w is None or seen.aggregate_l is None:
        return {}
    return {
        "kl_proxy_w": float((aggregate_w - seen.aggregate_w).square().mean()),
        "kl_proxy_l": float((aggregate_l - seen.aggregate_l).square().mean()),
    }


def _add_regions(
    total: PairResult,
    problem: Problem,
    trainable: Trainable,
    settings: LossSettings,
    schedule: Schedule,
    context: Context,
    seed: int,
) -> None:
    """Add lambda x the mean over the chosen windows of eq. 9, loss and gradient, in place."""
    chosen = choose_windows(len(problem.windows), settings.region_windows, seed)
    inside = replace(settings, region_weight=0.0)
    weight, values = settings.region_weight / len(chosen), []
    for index in chosen:
        one = region_problem(problem, index)
        region = pair_gradients(one, trainable, inside, schedule=schedule, context=context)
        values.append(region.loss)
        torch._foreach_add_(total.grads, region.grads, alpha=weight)
    total.metrics["region_loss"] = sum(values) / len(values)
    total.metrics["scroll_loss"] = total.loss
    total.loss += weight * sum(values)
    total.metrics["loss"] = total.loss
