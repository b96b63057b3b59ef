"""One preference pair to one LoRA gradient: reference pass, both scrolls, the loss, the combination."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from train.engine.together import Twins, errors_together, fits_together, gradients_together
from train.engine.windowed import Problem, Schedule, SideResult, errors, gradients
from train.objective.losses import NOTHING, Context, LossSettings, needs_reference
from train.objective.preference import Geometry, LossResult, pair_loss
from train.objective.region import choose_windows, region_problem

Off = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Reference:
    """The frozen model's errors on a pair, and its averaged predictions (None where only scalars were
    cached)."""

    error_w: float
    error_l: float
    aggregate_w: Tensor | None = None
    aggregate_l: Tensor | None = None


NO_REFERENCE = Reference(math.nan, math.nan)


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


def reference_pass(problem: Problem, off: Off, *, together: bool = False) -> Reference:
    """Errors and averages of the model with its adapters off; `off` is `lambda: reference(unet)`.

    together: both scrolls in one call, as the policy's pass has them, or z would not start at exactly 0.
    """
    with off():
        if together:
            (error_w, aggregate_w), (error_l, aggregate_l) = errors_together(problem)
        else:
            error_w, aggregate_w = errors(problem.side("w"))
            error_l, aggregate_l = errors(problem.side("l"))
    return Reference(error_w, error_l, aggregate_w, aggregate_l)


def in_one_call(problem: Problem, settings: LossSettings, twins: Twins | None) -> bool:
    """True where `pair_gradients` gives winner and loser to the network together."""
    return twins is not None and fits_together(problem) and settings.reference_anchor == 0


def pair_gradients(
    problem: Problem,
    parameters: Sequence[Tensor],
    settings: LossSettings,
    *,
    off: Off,
    schedule: Schedule = "stream",
    context: Context = NOTHING,
    known: Reference | None = None,
    region_seed: int = 0,
    twins: Twins | None = None,
) -> PairResult:
    """Loss, exact gradient dL/dtheta and metrics of one pair (eqs 19 and 23).

    off: context manager that switches the adapters off; twins: `lambda: twins(unet)`, lets winner and loser
    run in one call where a scroll is one window and two per call are allowed; known: the reference's errors
    when they were cached; region_seed: makes the draw of the region term's window a function of the step. At
    most three LoRA-sized buffers live at once (two, plus one with the region term or the anchor). The
    parameters' .grad is not touched.
    """
    together = in_one_call(problem, settings, twins)
    seen = known or (
        reference_pass(problem, off, together=together) if needs_reference(settings) else NO_REFERENCE
    )
    if twins is not None and together:
        winner, loser = gradients_together(problem, twins)
    else:
        winner = gradients(problem.side("w"), parameters, schedule, _anchor(seen, settings))
        loser = gradients(problem.side("l"), parameters, schedule)
    geometry = _geometry(winner, loser)
    context = replace(context, numel=problem.latents_w.numel(), drift=winner.drift)
    result = pair_loss(winner.error, loser.error, seen.error_w, seen.error_l, settings, context, geometry)
    grads = combine(winner, loser, result)
    metrics = dict(result.metrics) | _proxies(winner.aggregate, loser.aggregate, seen)
    metrics["alive_windows"] = float(max(winner.alive_peak, loser.alive_peak))
    total = PairResult(result.loss, grads, metrics, seen)
    if settings.region_weight > 0:
        del winner, loser
        _add_regions(total, problem, parameters, settings, off, schedule, context, region_seed)
    return total


def pair_errors(
    problem: Problem,
    settings: LossSettings,
    *,
    off: Off,
    context: Context = NOTHING,
    known: Reference | None = None,
) -> PairResult:
    """Loss and metrics without gradient, for held-out pairs; grads is empty."""
    seen = known or (reference_pass(problem, off) if needs_reference(settings) else NO_REFERENCE)
    error_w, aggregate_w = errors(problem.side("w"))
    error_l, aggregate_l = errors(problem.side("l"))
    proxies = _proxies(aggregate_w, aggregate_l, seen)
    context = replace(context, numel=problem.latents_w.numel(), drift=proxies.get("kl_proxy_w", 0.0))
    result = pair_loss(error_w, error_l, seen.error_w, seen.error_l, settings, context)
    return PairResult(result.loss, [], dict(result.metrics) | proxies, seen)


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
    parameters: Sequence[Tensor],
    settings: LossSettings,
    off: Off,
    schedule: Schedule,
    context: Context,
    seed: int,
) -> None:
    """Add lambda x the mean over the chosen windows of eq. 9, loss and gradient, in place."""
    chosen = choose_windows(len(problem.windows), settings.region_windows, seed)
    inside = replace(settings, region_weight=0.0)
    weight, values = settings.region_weight / len(chosen), []
    for index in chosen:
        region = pair_gradients(
            region_problem(problem, index), parameters, inside, off=off, schedule=schedule, context=context
        )
        values.append(region.loss)
        torch._foreach_add_(total.grads, region.grads, alpha=weight)
    total.metrics["region_loss"] = sum(values) / len(values)
    total.metrics["scroll_loss"] = total.loss
    total.loss += weight * sum(values)
    total.metrics["loss"] = total.loss
