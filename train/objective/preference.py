"""One pair's loss with everything around it: label smoothing, anchors, the safeguard, and what to log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from drspo.registry import lookup
from train import LOSSES
from train.objective.losses import (
    NOTHING,
    Context,
    LossFunction,
    LossSettings,
    Terms,
    effective_beta,
    error_unit,
    margin,
    sigmoid,
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Inner products of the two sides' gradients: <g_w, g_w>, <g_w, g_l>, <g_l, g_l>."""

    ww: float
    wl: float
    ll: float


@dataclass(frozen=True, slots=True)
class LossResult:
    """The loss of one pair; its gradient is coef_w * g_w + coef_l * g_l + coef_anchor * grad mean (A_w -
    A_ref)^2."""

    loss: float
    coef_w: float
    coef_l: float
    coef_anchor: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


def pair_loss(
    e_w: float,
    e_l: float,
    r_w: float,
    r_l: float,
    settings: LossSettings,
    context: Context = NOTHING,
    geometry: Geometry | None = None,
) -> LossResult:
    """The loss of one pair, the coefficients of its gradient, and everything worth logging about it.

    e_w, e_l: aggregated errors of the policy on winner and loser (mean over elements); r_w, r_l: the same of
    the reference. geometry is needed by the sdpo safeguard; without it (validation) the safeguard has nothing
    to act on.
    """
    terms = _smoothed(lookup(LOSSES, settings.name, "loss"), e_w, e_l, r_w, r_l, settings, context)
    slope = effective_beta(settings, context.numel) / 2
    unit = _anchor_unit(settings, context.numel)
    coef_w = terms.d_w + settings.winner_anchor * unit
    coef_anchor = settings.reference_anchor * unit
    loss = terms.value + settings.winner_anchor * unit * e_w + coef_anchor * context.drift
    scale = safeguard_scale(coef_w, terms.d_l, geometry, settings)
    metrics = _metrics(e_w, e_l, r_w, r_l, 2 * slope) | _geometry_metrics(geometry, scale)
    values = {"loss": loss, "preference_loss": terms.value}
    return LossResult(loss, coef_w, scale * terms.d_l, coef_anchor, values | metrics)


def _anchor_unit(settings: LossSettings, numel: int) -> float:
    """What an anchored error weighs; nothing, for a loss that need not know it, where there is no anchor."""
    anchored = settings.winner_anchor > 0 or settings.reference_anchor > 0
    return error_unit(settings, numel) if anchored else 0.0


def _smoothed(
    function: LossFunction,
    e_w: float,
    e_l: float,
    r_w: float,
    r_l: float,
    settings: LossSettings,
    context: Context,
) -> Terms:
    """The loss under labels that are wrong with probability e.

    Conservative: (1-e) L(w,l) + e L(l,w) (Mitchell 2023, "A note on DPO with noisy preferences").
    Robust: ((1-e) L(w,l) - e L(l,w)) / (1-2e) (Chowdhury et al. 2024, arXiv 2403.00409), unbiased for
    the clean loss.
    """
    right = function(e_w, e_l, r_w, r_l, settings, context)
    e = settings.label_smoothing
    if e == 0:
        return right
    wrong = function(e_l, e_w, r_l, r_w, settings, context)
    keep, mix = (
        (1 - e, e) if settings.smoothing == "conservative" else ((1 - e) / (1 - 2 * e), -e / (1 - 2 * e))
    )
    return Terms(
        keep * right.value + mix * wrong.value,
        keep * right.d_w + mix * wrong.d_l,
        keep * right.d_l + mix * wrong.d_w,
    )


def safeguard_scale(coef_w: float, coef_l: float, geometry: Geometry | None, settings: LossSettings) -> float:
    """The factor on the loser's gradient that keeps the winner's error from rising, to first order.

    Diffusion-SDPO (Fu et al. 2025, arXiv 2511.03317) in its parameter-space form, which costs nothing here. A
    descent step -(a g_w + b g_l), b < 0, changes E_w by -(a <g_w,g_w> + b <g_w,g_l>) per unit of step. Where
    <g_w,g_l> > 0 the second term raises E_w; scaling b by min(1, (1 - margin) a <g_w,g_w> / (-b <g_w,g_l>))
    leaves a fall of at least margin x a <g_w,g_w>.
    """
    wanted = settings.safeguard == "sdpo" or settings.name == "sdpo"
    if not wanted or geometry is None or not (coef_w > 0 > coef_l and geometry.wl > 0):
        return 1.0
    return min(1.0, (1 - settings.safeguard_margin) * coef_w * geometry.ww / (-coef_l * geometry.wl))


def _metrics(e_w: float, e_l: float, r_w: float, r_l: float, beta: float) -> dict[str, float]:
    """Errors, and against a reference: z, accuracy (ties count half), rewards, drifts, sigmoid(-z)."""
    errors = {"error_w": e_w, "error_l": e_l}
    if math.isnan(r_w) and math.isnan(r_l):
        return errors
    z = margin(e_w, e_l, r_w, r_l, beta)
    return errors | {
        "z": z,
        "accuracy": 0.5 if z == 0 else float(z > 0),
        "reward_w": -(beta / 2) * (e_w - r_w),
        "reward_l": -(beta / 2) * (e_l - r_l),
        "margin": z,
        "winner_drift": e_w - r_w,
        "loser_drift": e_l - r_l,
        "gradient_factor": sigmoid(-z),
    }


def _geometry_metrics(geometry: Geometry | None, scale: float) -> dict[str, float]:
    """Norms of g_w and g_l, their cosine, and the safeguard's factor."""
    if geometry is None:
        return {}
    norm_w, norm_l = math.sqrt(geometry.ww), math.sqrt(geometry.ll)
    product = norm_w * norm_l
    cosine = geometry.wl / product if product > 0 else 0.0
    return {"grad_norm_w": norm_w, "grad_norm_l": norm_l, "grad_cosine": cosine, "safeguard_scale": scale}
