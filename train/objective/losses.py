"""Preference losses: pure functions of the two scrolls' errors, with their derivatives in closed form.

Every loss here depends on the network only through two numbers, the aggregated errors E_w of the winner and
E_l of the loser. So its gradient is dL/dE_w * g_w + dL/dE_l * g_l, where g = dE/dtheta; the gradient engine
(`train.engine.windowed`) makes g_w and g_l, this module makes the two scalars. No tensor, no torch: floats
in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from drspo.errors import UserError
from drspo.ranges import check_ranges
from drspo.registry import lookup
from train import LOSSES
from train.settings import LossSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What some losses need to know beside the four errors."""

    numel: int = 0
    """Latent elements D of one scroll."""
    snr: float = math.nan
    """abar / (1 - abar) at this timestep (MaPO)."""
    timesteps: int = 1000
    """Length of the noise schedule (MaPO)."""
    reference_point: float = math.nan
    """KTO's KL estimate; not a number = estimated from this pair."""
    drift: float = 0.0
    """mean (A - A_ref)^2 of the winner (reference_anchor)."""


NOTHING = Context()


class Terms(NamedTuple):
    """A loss and its derivatives by the two errors."""

    value: float
    d_w: float
    d_l: float


LossFunction = Callable[[float, float, float, float, LossSettings, Context], Terms]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow; not-a-number passes through."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    e = math.exp(x)
    return e / (1 + e)


def softplus(x: float) -> float:
    """log(1 + exp(x)) without overflow; -log sigmoid(z) is softplus(-z)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def effective_beta(settings: LossSettings, numel: int) -> float:
    """beta, rescaled by D / beta_reference_numel where asked.

    With a mean over elements each one weighs beta/(2D), so equal beta is a four times weaker KL per nat on a
    scroll of four squares; the rescaling removes that.
    """
    if settings.beta_reference_numel and numel:
        return settings.beta * numel / settings.beta_reference_numel
    return settings.beta


def margin(e_w: float, e_l: float, r_w: float, r_l: float, beta: float) -> float:
    """z = -(beta/2) [(E_w - R_w) - (E_l - R_l)], the argument of the sigmoid in eqs 9 and 19."""
    return -(beta / 2) * ((e_w - r_w) - (e_l - r_l))


def dpo(e_w: float, e_l: float, r_w: float, r_l: float, settings: LossSettings, context: Context) -> Terms:
    """-log sigmoid(z): Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908, eq. 14); here eqs 9 and 19.

    The norms are squared and averaged over elements, and the factor 1/2 is the Gaussian KL's.
    """
    slope = effective_beta(settings, context.numel) / 2
    z = margin(e_w, e_l, r_w, r_l, 2 * slope)
    push = slope * sigmoid(-z)
    return Terms(softplus(-z), push, -push)


def ipo(e_w: float, e_l: float, r_w: float, r_l: float, settings: LossSettings, context: Context) -> Terms:
    """(h - 1/(2 beta))^2 with h = z/beta: IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17).

    A bounded target: z is drawn to 1/2 and pulled back beyond it.
    """
    beta = effective_beta(settings, context.numel)
    gap = margin(e_w, e_l, r_w, r_l, 1.0) - 1 / (2 * beta)
    return Terms(gap * gap, -gap, gap)


def hinge(e_w: float, e_l: float, r_w: float, r_l: float, settings: LossSettings, context: Context) -> Terms:
    """max(0, 1 - z): the hinge of SLiC (Zhao et al. 2023, arXiv 2305.10425) on DPO's margin; stops at
    z = 1."""
    slope = effective_beta(settings, context.numel) / 2
    gap = 1 - margin(e_w, e_l, r_w, r_l, 2 * slope)
    if gap <= 0:
        return Terms(0.0, 0.0, 0.0)
    return Terms(gap, slope, -slope)


def kto(e_w: float, e_l: float, r_w: float, r_l: float, settings: LossSettings, context: Context) -> Terms:
    """Mean of 1 - sigmoid(r_w - k) and 1 - sigmoid(k - r_l): Diffusion-KTO (Li et al. 2024, arXiv 2404.04465,
    eq. 11).

    r = -(beta/2)(E - R) is a scroll's implied reward; the reference point k (no gradient flows through it) is
    the given one, or max(0, mean reward) of this pair.
    """
    slope = effective_beta(settings, context.numel) / 2
    reward_w, reward_l = -slope * (e_w - r_w), -slope * (e_l - r_l)
    point = context.reference_point
    if math.isnan(point):
        point = max(0.0, (reward_w + reward_l) / 2)
    good, bad = sigmoid(reward_w - point), sigmoid(point - reward_l)
    return Terms(1 - (good + bad) / 2, slope * good * (1 - good) / 2, -slope * bad * (1 - bad) / 2)


def mapo(e_w: float, e_l: float, r_w: float, r_l: float, settings: LossSettings, context: Context) -> Terms:
    """E_w - b log sigmoid(T (h(E_w) - h(E_l))), h(m) = s m/(exp(s m) - 1): MaPO (Hong et al. 2024, arXiv
    2406.06424).

    s is the signal-to-noise ratio at t. There is no reference model: R_w and R_l are ignored and need not be
    computed.
    """
    odds_w, slope_w = _odds(context.snr * e_w)
    odds_l, slope_l = _odds(context.snr * e_l)
    gap = context.timesteps * (odds_w - odds_l)
    push = settings.mapo_beta * sigmoid(-gap) * context.timesteps * context.snr
    return Terms(e_w + settings.mapo_beta * softplus(-gap), 1 - push * slope_w, push * slope_l)


mapo.needs_reference = False  # type: ignore[attr-defined]


def _odds(x: float) -> tuple[float, float]:
    """x / (exp(x) - 1) and its derivative; the series near 0, where the closed form cancels."""
    if abs(x) < 1e-3:
        return 1 - x / 2 + x * x / 12, -0.5 + x / 6
    if x > 500:
        return 0.0, 0.0
    growth = math.expm1(x)
    return x / growth, (growth - x * (growth + 1)) / growth**2


def _by_margin(settings: LossSettings, numel: int) -> float:
    return effective_beta(settings, numel) / 2


# What an error weighs against the loss's own value, so that the anchors mean the same beside each of them:
# dpo, hinge and kto are functions of (beta/2) E; ipo is (z - 1/2)^2 / beta^2, such a function divided by
# beta^2; mapo counts E_w itself.
dpo.unit = hinge.unit = kto.unit = _by_margin  # type: ignore[attr-defined]
ipo.unit = lambda settings, numel: 1 / (2 * effective_beta(settings, numel))  # type: ignore[attr-defined]
mapo.unit = lambda settings, numel: 1.0  # type: ignore[attr-defined]


def error_unit(settings: LossSettings, numel: int) -> float:
    """What the anchors multiply an error with, to stand in the loss's own unit; beta/2 for dpo.

    A plugin says it as its attribute `unit(settings, numel)`; without one it takes no anchor (see `check`).
    """
    function = lookup(LOSSES, settings.name, "loss")
    return float(function.unit(settings, numel))


def needs_reference(settings: LossSettings) -> bool:
    """Whether the loss or its anchor looks at the reference model at all (MaPO does not)."""
    function = lookup(LOSSES, settings.name, "loss")
    return bool(getattr(function, "needs_reference", True)) or settings.reference_anchor > 0


def check(settings: LossSettings) -> LossSettings:
    """The settings, or UserError where one is out of range or they contradict each other."""
    function = lookup(LOSSES, settings.name, "loss")
    check_ranges(settings)
    anchored = settings.winner_anchor > 0 or settings.reference_anchor > 0
    if anchored and not hasattr(function, "unit"):
        raise UserError(
            f"the loss {settings.name!r} does not say what an error weighs in it, so it takes no anchor",
            "--loss.name",
            "give the function an attribute unit(settings, numel), or leave the anchors at 0",
        )
    return settings
