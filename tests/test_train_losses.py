"""The preference losses against their definitions: limits, symmetries, derivatives by finite differences."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drspo import consent
from drspo.errors import UserError
from drspo.registry import lookup
from train import LOSSES
from train.objective.losses import (
    Context,
    LossSettings,
    check,
    dpo,
    effective_beta,
    needs_reference,
    sigmoid,
    softplus,
)
from train.objective.preference import Geometry, pair_loss

ERROR = st.floats(0.05, 0.5)
DRIFT = st.floats(-2e-3, 2e-3)
CONTEXT = Context(numel=65536, snr=0.7, timesteps=1000, reference_point=0.1, drift=0.01)
SMOOTH = st.sampled_from([(0.0, "conservative"), (0.1, "conservative"), (0.1, "robust")])


def central_difference(function, x, h=1e-7):
    return (function(x + h) - function(x - h)) / (2 * h)


@pytest.mark.parametrize("name", sorted(LOSSES))
@settings(max_examples=60, deadline=None)
@given(r_w=ERROR, r_l=ERROR, d_w=DRIFT, d_l=DRIFT, smooth=SMOOTH, anchor=st.sampled_from([0.0, 0.2]))
def test_coefficients_are_the_derivatives_of_the_loss(name, r_w, r_l, d_w, d_l, smooth, anchor):
    chosen = LossSettings(name=name, label_smoothing=smooth[0], smoothing=smooth[1], winner_anchor=anchor)
    e_w, e_l = r_w + d_w, r_l + d_l
    z = -2500 * (d_w - d_l)
    if name == "hinge" and min(abs(1 - z), abs(1 + z)) < 1e-2:
        return  # the hinge has no derivative at its kink
    result = pair_loss(e_w, e_l, r_w, r_l, chosen, CONTEXT)
    by_w = central_difference(lambda x: pair_loss(x, e_l, r_w, r_l, chosen, CONTEXT).loss, e_w)
    by_l = central_difference(lambda x: pair_loss(e_w, x, r_w, r_l, chosen, CONTEXT).loss, e_l)
    size = max(abs(result.coef_w), abs(result.coef_l), 1e-3)
    assert result.coef_w == pytest.approx(by_w, rel=1e-4, abs=1e-5 * size)
    assert result.coef_l == pytest.approx(by_l, rel=1e-4, abs=1e-5 * size)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"mapo"}))
@given(r_w=ERROR, r_l=ERROR)
def test_an_untrained_policy_has_zero_margin_and_still_a_gradient(name, r_w, r_l):
    result = pair_loss(r_w, r_l, r_w, r_l, LossSettings(name=name))
    assert result.metrics["z"] == 0.0
    assert result.metrics["accuracy"] == 0.5
    assert result.coef_w > 0 > result.coef_l


@given(r_w=ERROR, r_l=ERROR)
def test_dpo_starts_at_log_two_with_half_the_slope(r_w, r_l):
    result = pair_loss(r_w, r_l, r_w, r_l, LossSettings())
    assert result.loss == pytest.approx(math.log(2), abs=1e-15)
    assert (result.coef_w, result.coef_l) == (1250.0, -1250.0)


@given(r_w=ERROR, r_l=ERROR, d_w=DRIFT, d_l=DRIFT)
def test_swapping_winner_and_loser_flips_z(r_w, r_l, d_w, d_l):
    e_w, e_l = r_w + d_w, r_l + d_l
    one = pair_loss(e_w, e_l, r_w, r_l, LossSettings())
    other = pair_loss(e_l, e_w, r_l, r_w, LossSettings())
    assert one.metrics["z"] == pytest.approx(-other.metrics["z"], abs=1e-9)
    assert one.loss - other.loss == pytest.approx(-one.metrics["z"], abs=1e-9)


def test_better_on_the_winner_and_worse_on_the_loser_is_a_positive_margin():
    result = pair_loss(0.10, 0.20, 0.11, 0.19, LossSettings())
    assert result.metrics["z"] == pytest.approx(2500 * 0.02)
    assert result.metrics["accuracy"] == 1.0
    assert result.metrics["reward_w"] == pytest.approx(25) and result.metrics["reward_l"] == pytest.approx(
        -25
    )
    assert result.metrics["winner_drift"] == pytest.approx(-0.01)
    assert result.metrics["loser_drift"] == pytest.approx(0.01)


def test_the_published_size_of_z_is_the_squared_mean_with_one_half():
    # E changes of 1.2e-5 at beta 5000 give z = 0.03; the squared sum over 8192 elements would give z = 492.
    result = pair_loss(0.1 - 1.2e-5, 0.1, 0.1, 0.1, LossSettings())
    assert result.metrics["z"] == pytest.approx(0.03, rel=1e-9)


def test_ipo_rests_at_z_of_one_half_and_hinge_beyond_one():
    at = 0.5 / 2500
    ipo = pair_loss(0.1 - at, 0.1, 0.1, 0.1, LossSettings(name="ipo"))
    assert ipo.metrics["z"] == pytest.approx(0.5) and abs(ipo.coef_w) < 1e-12
    beyond = pair_loss(0.1 - 3 * at, 0.1, 0.1, 0.1, LossSettings(name="ipo"))
    assert beyond.coef_w < 0 < beyond.coef_l
    hinge = pair_loss(0.1 - 3 * at, 0.1, 0.1, 0.1, LossSettings(name="hinge"))
    assert (hinge.loss, hinge.coef_w, hinge.coef_l) == (0.0, 0.0, 0.0)


@given(d_w=DRIFT, d_l=DRIFT, e=st.floats(0.01, 0.4))
def test_robust_smoothing_is_unbiased_under_flipped_labels(d_w, d_l, e):
    robust = LossSettings(label_smoothing=e, smoothing="robust")
    kept = pair_loss(0.1 + d_w, 0.1 + d_l, 0.1, 0.1, robust).loss
    flipped = pair_loss(0.1 + d_l, 0.1 + d_w, 0.1, 0.1, robust).loss
    clean = pair_loss(0.1 + d_w, 0.1 + d_l, 0.1, 0.1, LossSettings()).loss
    assert (1 - e) * kept + e * flipped == pytest.approx(clean, abs=1e-9)


def test_conservative_smoothing_stops_where_the_label_is_as_sure_as_the_policy():
    z = math.log(0.9 / 0.1)
    result = pair_loss(0.1 - z / 2500, 0.1, 0.1, 0.1, LossSettings(label_smoothing=0.1))
    assert abs(result.coef_w) < 1e-9


@given(
    ww=st.floats(0.01, 10),
    cosine=st.floats(-1, 1),
    ll=st.floats(0.01, 10),
    margin=st.floats(0, 0.9),
    d_w=DRIFT,
    d_l=DRIFT,
)
def test_the_safeguard_never_lets_the_winners_error_rise_to_first_order(ww, cosine, ll, margin, d_w, d_l):
    geometry = Geometry(ww, cosine * math.sqrt(ww * ll), ll)
    chosen = LossSettings(name="sdpo", safeguard_margin=margin)
    result = pair_loss(0.1 + d_w, 0.1 + d_l, 0.1, 0.1, chosen, geometry=geometry)
    fall = result.coef_w * geometry.ww + result.coef_l * geometry.wl
    assert fall >= margin * result.coef_w * ww * (1 - 1e-9) - 1e-12
    if cosine <= 0:
        assert result.metrics["safeguard_scale"] == 1.0


def test_without_the_safeguard_the_same_step_raises_the_winners_error():
    geometry = Geometry(1.0, 1.5, 4.0)
    plain = pair_loss(0.1, 0.1, 0.1, 0.1, LossSettings(), geometry=geometry)
    guarded = pair_loss(0.1, 0.1, 0.1, 0.1, LossSettings(safeguard="sdpo"), geometry=geometry)
    assert plain.coef_w * geometry.ww + plain.coef_l * geometry.wl < 0
    assert guarded.coef_w * geometry.ww + guarded.coef_l * geometry.wl == pytest.approx(0, abs=1e-9)
    assert plain.metrics["grad_cosine"] == pytest.approx(0.75)


def test_kto_estimates_its_reference_point_from_the_pair_and_never_below_zero():
    given_point = replace(CONTEXT, reference_point=0.0)
    estimated = replace(CONTEXT, reference_point=math.nan)
    worse = (0.11, 0.12, 0.10, 0.10)  # both rewards negative: the estimate is 0
    chosen = LossSettings(name="kto")
    assert pair_loss(*worse, chosen, estimated).loss == pair_loss(*worse, chosen, given_point).loss
    better = (0.1 - 1e-4, 0.1 - 3e-4, 0.1, 0.1)  # rewards 0.25 and 0.75: the estimate is 0.5
    by_hand = 1 - (sigmoid(0.25 - 0.5) + sigmoid(0.5 - 0.75)) / 2
    assert pair_loss(*better, chosen, estimated).loss == pytest.approx(by_hand, abs=1e-9)


def test_mapo_needs_no_reference_and_reports_no_margin():
    assert not needs_reference(LossSettings(name="mapo"))
    assert needs_reference(LossSettings()) and needs_reference(
        LossSettings(name="mapo", reference_anchor=0.1)
    )
    result = pair_loss(0.1, 0.2, math.nan, math.nan, LossSettings(name="mapo"), CONTEXT)
    assert math.isfinite(result.loss) and result.coef_w > 0 > result.coef_l and "z" not in result.metrics


def test_mapo_is_continuous_across_its_series():
    chosen = LossSettings(name="mapo")
    around = [
        pair_loss(e, 0.2, 0, 0, chosen, replace(CONTEXT, snr=1.0)).coef_w for e in (9.999e-4, 1.0001e-3)
    ]
    assert around[0] == pytest.approx(around[1], rel=1e-3)


def test_the_anchor_to_the_reference_carries_its_weight_and_value():
    result = pair_loss(0.1, 0.1, 0.1, 0.1, LossSettings(reference_anchor=0.5), replace(CONTEXT, drift=0.02))
    assert result.coef_anchor == 1250.0
    assert result.loss == pytest.approx(math.log(2) + 1250 * 0.02)


def test_beta_scales_with_the_scroll_where_asked():
    assert effective_beta(LossSettings(), 262144) == 5000
    assert effective_beta(LossSettings(beta_reference_numel=65536), 262144) == 20000


@given(x=st.floats(-1e6, 1e6))
def test_sigmoid_and_softplus_are_stable_and_consistent(x):
    assert 0 <= sigmoid(x) <= 1
    assert softplus(-x) == pytest.approx(softplus(x) - x, abs=1e-9, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_error_gives_a_non_finite_loss_and_no_exception(bad):
    for name in LOSSES:
        result = pair_loss(bad, 0.1, 0.1, 0.1, LossSettings(name=name), CONTEXT)
        trouble = not math.isfinite(result.loss) or not math.isfinite(result.metrics["error_w"])
        assert trouble


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "dppo"},
        {"label_smoothing": 0.5},
        {"beta": 0.0},
        {"safeguard_margin": 1.0},
        {"winner_anchor": -1.0},
        {"beta": math.nan},
        {"mapo_beta": math.inf},
    ],
)
def test_settings_that_contradict_themselves_are_refused(wrong):
    with pytest.raises(UserError):
        check(LossSettings(**wrong))


def test_every_registered_loss_and_a_plugin_resolve():
    consent.allow("train.objective.losses:dpo")
    assert lookup(LOSSES, "train.objective.losses:dpo", "loss") is dpo
    for name in LOSSES:
        assert check(LossSettings(name=name)).name == name


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_an_anchor_weighs_as_much_beside_every_loss_as_beside_dpo(name):
    """At the first step, the pull of the preference on the winner against that of the anchor."""

    def share(loss: str) -> float:
        plain = pair_loss(0.3, 0.3, 0.3, 0.3, LossSettings(name=loss), CONTEXT)
        anchored = pair_loss(0.3, 0.3, 0.3, 0.3, LossSettings(name=loss, winner_anchor=0.25), CONTEXT)
        assert anchored.coef_w > plain.coef_w
        return (anchored.coef_w - plain.coef_w) / abs(plain.coef_l)

    assert share(name) == pytest.approx(share("dpo"), rel=4) and share(name) > 0.01


@pytest.mark.parametrize("name", ["ipo", "mapo"])
@pytest.mark.parametrize("anchor", ["winner_anchor", "reference_anchor"])
def test_a_loss_with_an_anchor_stays_of_the_size_of_its_terms(name, anchor):
    plain = pair_loss(0.3, 0.31, 0.3, 0.3, LossSettings(name=name), CONTEXT).loss
    both = pair_loss(0.3, 0.31, 0.3, 0.3, LossSettings(name=name, **{anchor: 0.25}), CONTEXT).loss
    dpo_plain = pair_loss(0.3, 0.31, 0.3, 0.3, LossSettings(), CONTEXT).loss
    dpo_both = pair_loss(0.3, 0.31, 0.3, 0.3, LossSettings(**{anchor: 0.25}), CONTEXT).loss
    assert both / plain <= 4 * dpo_both / dpo_plain


def own(e_w, e_l, r_w, r_l, settings, context):
    """A loss of somebody else's that does not say its unit."""
    return dpo(e_w, e_l, r_w, r_l, settings, context)


def test_a_plugin_that_does_not_say_its_unit_takes_no_anchor(monkeypatch):
    name = f"{__name__}:own"
    consent.allow(name)
    monkeypatch.setattr("train.objective.losses.lookup", lambda *_: own)
    assert check(LossSettings(name=name)).name == name
    with pytest.raises(UserError, match="does not say what an error weighs"):
        check(LossSettings(name=name, winner_anchor=0.25))
