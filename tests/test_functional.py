import math

import mpmath
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from orpo_lightning.functional import (
    MAX_MEAN_LOGP,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log1mexp,
    log_odds,
    odds_ratio_loss,
    robust_dpo_loss,
    sequence_mean_nll,
    simpo_loss,
    token_mean_nll,
)

LN2 = math.log(2)
# exp(-700) is 1e-304: that many digits, so that 1 - exp(x) keeps some of it
DIGITS = 350
ANY_X = [-(10.0**k) for k in range(-12, 3)] + [-700.0, -LN2, -0.69, -0.7, -0.5, -1.5, -3.0, -5.0, -7.0, -9.0]
GRID = [-20.0, -8.0, -4.0, -2.0, -1.0, -LN2, -0.5, -0.1, -1e-2, -1e-4, -1e-6]

quick = settings(max_examples=60, deadline=None, derandomize=True)
margins = st.floats(-60, 60)
betas = st.floats(0.01, 5)
smoothings = st.floats(0, 0.49)


def tensor(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def value(loss, margin, *args):
    return loss(tensor(margin), *args).item()


def slope(function, at, *args):
    x = tensor(at).requires_grad_()
    (gradient,) = torch.autograd.grad(function(x, *args).sum(), x)
    return gradient.item()


def exact(formula, *xs):
    with mpmath.workdps(DIGITS):
        return float(formula(*map(mpmath.mpf, xs)))


def as_stored(x, dtype):
    return torch.tensor(x, dtype=dtype).item()


# log1mexp


@pytest.mark.parametrize("x", ANY_X)
def test_log1mexp_is_exact_from_minus_700_to_minus_1e_12(x):
    assert log1mexp(tensor(x)).item() == pytest.approx(exact(lambda x: mpmath.log(1 - mpmath.exp(x)), x), rel=1e-14)


@pytest.mark.parametrize("x", [x for x in ANY_X if -80 <= x <= -1e-8])
def test_log1mexp_is_exact_in_fp32_too(x):
    x = as_stored(x, torch.float32)
    found = log1mexp(tensor(x, dtype=torch.float32)).item()
    assert found == pytest.approx(exact(lambda x: mpmath.log(1 - mpmath.exp(x)), x), rel=1e-6)


@pytest.mark.parametrize("x", ANY_X)
def test_the_derivative_of_log1mexp_is_minus_the_odds(x):
    assert slope(log1mexp, x) == pytest.approx(exact(lambda x: -mpmath.exp(x) / (1 - mpmath.exp(x)), x), rel=1e-14)


def test_log1mexp_maps_minus_ln_2_to_itself():
    assert value(log1mexp, -LN2) == pytest.approx(-LN2, rel=1e-15)


def test_the_two_forms_of_log1mexp_meet_at_minus_ln_2_in_value_and_slope():
    below, above = math.nextafter(-LN2, -math.inf), math.nextafter(-LN2, math.inf)
    assert value(log1mexp, below) == pytest.approx(value(log1mexp, above), rel=1e-15)
    assert slope(log1mexp, below) == pytest.approx(-1, rel=1e-15)
    assert slope(log1mexp, above) == pytest.approx(-1, rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("x", [-1e-30, -1e-12, -1e-8, -100.0, -1e4, -1e30])
def test_log1mexp_and_its_gradient_are_finite_at_both_extremes(x, dtype):
    x = tensor(x, dtype=dtype).requires_grad_()
    y = log1mexp(x)
    y.backward(torch.ones_like(y))
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


# log odds


@pytest.mark.parametrize(("probability", "odds"), [(0.5, 1.0), (0.8, 4.0), (0.2, 0.25), (0.99, 99.0)])
def test_log_odds_of_a_probability(probability, odds):
    assert value(log_odds, math.log(probability)) == pytest.approx(math.log(odds), rel=1e-12, abs=1e-14)


@quick
@given(st.floats(-600, -1e-6))
def test_the_sigmoid_of_the_log_odds_is_the_probability_again(x):
    assert torch.sigmoid(log_odds(tensor(x))).item() == pytest.approx(math.exp(x), rel=1e-9)


@pytest.mark.parametrize("x", GRID)
def test_log_odds_are_precise_in_fp32(x):
    x = as_stored(x, torch.float32)
    found = log_odds(tensor(x, dtype=torch.float32)).item()
    # both terms are ln 2 at P = 1/2, and cancel
    assert found == pytest.approx(exact(lambda x: x - mpmath.log(1 - mpmath.exp(x)), x), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("x", GRID)
def test_the_derivative_of_the_log_odds_is_one_over_one_minus_p(x):
    assert slope(log_odds, x) == pytest.approx(exact(lambda x: 1 / (1 - mpmath.exp(x)), x), rel=1e-12)


@pytest.mark.parametrize(
    ("x", "derivative"), [(-4, 1.019), (-2, 1.157), (-1, 1.58), (-0.5, 2.54), (-0.1, 10.5), (-0.01, 100.5)]
)
def test_odds_amplify_the_gradient_where_the_probability_is_high(x, derivative):
    assert slope(log_odds, x) == pytest.approx(derivative, rel=2e-3)


def test_log_odds_are_the_log_probability_where_it_is_low():
    assert value(log_odds, -40.0) == pytest.approx(-40.0, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_response_has_the_odds_of_the_largest_mean_log_probability(dtype):
    largest = math.log(1 / -math.expm1(MAX_MEAN_LOGP)) + MAX_MEAN_LOGP
    assert log_odds(tensor(0.0, -1e-12, dtype=dtype)).tolist() == pytest.approx([largest, largest], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("x", [0.0, -1e-12, -1e-8, MAX_MEAN_LOGP, -1e4])
def test_the_gradient_of_the_log_odds_is_finite_at_the_edges(x, dtype):
    x = tensor(x, dtype=dtype).requires_grad_()
    log_odds(x).sum().backward()
    assert x.grad.isfinite().all()


# the odds ratio loss


def test_the_odds_ratio_loss_of_equal_odds_is_ln_2():
    assert value(odds_ratio_loss, 0.0) == pytest.approx(LN2, rel=1e-15)


def test_the_odds_ratio_loss_of_odds_four_times_as_high_is_ln_five_quarters():
    assert value(odds_ratio_loss, math.log(4)) == pytest.approx(math.log(5 / 4), rel=1e-14)


def test_the_odds_ratio_loss_vanishes_and_grows_linearly_at_its_ends():
    assert value(odds_ratio_loss, 700.0) == pytest.approx(math.exp(-700), rel=1e-12)
    assert value(odds_ratio_loss, -700.0) == pytest.approx(700.0, rel=1e-15)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_gradient_of_the_odds_ratio_loss_is_minus_delta_h(dtype, tolerance):
    chosen, rejected = torch.cartesian_prod(tensor(*GRID, dtype=dtype), tensor(*GRID, dtype=dtype)).unbind(1)
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    odds_ratio_loss(log_odds(chosen) - log_odds(rejected)).sum().backward()

    def delta(p_w, p_l):
        return 1 / (1 + p_w / (1 - p_w) / (p_l / (1 - p_l)))

    def by_chosen(a, b):
        return -delta(mpmath.exp(a), mpmath.exp(b)) / (1 - mpmath.exp(a))

    def by_rejected(a, b):
        return delta(mpmath.exp(a), mpmath.exp(b)) / (1 - mpmath.exp(b))

    for i, means in enumerate(zip(chosen.tolist(), rejected.tolist(), strict=True)):
        assert chosen.grad[i].item() == pytest.approx(exact(by_chosen, *means), rel=tolerance)
        assert rejected.grad[i].item() == pytest.approx(exact(by_rejected, *means), rel=tolerance)


def uniform_log_probabilities():
    return torch.rand(2, 50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log()


def test_log_odds_ratios_of_uniform_probabilities_spread_as_in_the_paper():
    # the demonstration of eq. 17 to 19: 50,000 pairs. The log odds of a uniform are logistic, so the closed forms are
    # pi sqrt(2/3) = 2.565 and, with e = exp(2), 2 - 2 e (e - 3) / (e - 1)^2 = 0.411
    first, second = uniform_log_probabilities()
    ratio = log_odds(first) - log_odds(second)
    assert ratio.std().item() == pytest.approx(2.57, abs=0.02)
    assert (ratio.abs() > 2).double().mean().item() == pytest.approx(0.412, abs=0.006)


def test_log_odds_ratios_spread_wider_than_log_probability_ratios():
    first, second = uniform_log_probabilities()
    odds_ratio, probability_ratio = log_odds(first) - log_odds(second), first - second
    assert (odds_ratio.abs() >= probability_ratio.abs()).all()
    # the paper's 1.41 = sqrt 2 for the one and 2.57 for the other
    assert (odds_ratio.std() / probability_ratio.std()).item() == pytest.approx(2.57 / 1.41, abs=0.02)


# likelihoods


def test_the_token_mean_weighs_tokens_and_the_sequence_mean_weighs_sequences():
    logps, tokens = tensor(-2.0, -10.0), torch.tensor([1, 10])
    assert token_mean_nll(logps, tokens_per_pair=5.5).mean().item() == pytest.approx(12 / 11)
    assert sequence_mean_nll(logps, tokens).mean().item() == pytest.approx((2 + 1) / 2)


def test_both_means_agree_on_sequences_of_one_length():
    logps = tensor(-2.0, -10.0)
    torch.testing.assert_close(token_mean_nll(logps, 4.0), sequence_mean_nll(logps, torch.tensor([4, 4])))


def test_the_token_mean_accepts_the_count_as_a_tensor_of_another_precision():
    nll = token_mean_nll(tensor(-6.0, dtype=torch.float32), tensor(3.0).mean())
    assert nll.dtype == torch.float32
    assert nll.item() == 2.0


def test_the_token_mean_does_not_depend_on_the_split_of_the_global_batch():
    logps = tensor(-2.0, -10.0, -3.0, -1.0)
    whole = token_mean_nll(logps, tokens_per_pair=7.0).mean()
    halves = [token_mean_nll(half, tokens_per_pair=7.0).mean() for half in logps.chunk(2)]
    assert whole.item() == pytest.approx(sum(halves).item() / 2, rel=1e-15)


# losses of a margin


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_dpo_is_ln_2_where_policy_and_reference_agree(beta):
    assert value(dpo_loss, 0.0, beta) == pytest.approx(LN2, rel=1e-15)


def test_dpo_of_a_preference_three_times_as_likely_is_ln_four_thirds():
    assert value(dpo_loss, math.log(3) / 0.1, 0.1) == pytest.approx(math.log(4 / 3), rel=1e-14)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
def test_dpo_starts_with_a_slope_of_half_beta_less_the_flipped_labels(label_smoothing):
    assert slope(dpo_loss, 0.0, 0.3, label_smoothing) == pytest.approx(-0.3 * (0.5 - label_smoothing), rel=1e-13)


def test_dpo_is_linear_for_a_wrong_order_and_vanishes_for_a_right_one():
    assert value(dpo_loss, -1e5, 0.1) == pytest.approx(1e4, rel=1e-15)
    assert value(dpo_loss, 1e5, 0.1) == 0.0


@pytest.mark.parametrize("flipped", [0.1, 0.25, 0.4])
def test_conservative_dpo_is_lowest_where_the_preference_is_as_sure_as_the_labels(flipped):
    best = math.log((1 - flipped) / flipped) / 0.1
    entropy = -flipped * math.log(flipped) - (1 - flipped) * math.log(1 - flipped)
    assert slope(dpo_loss, best, 0.1, flipped) == pytest.approx(0, abs=1e-15)
    assert value(dpo_loss, best, 0.1, flipped) == pytest.approx(entropy, rel=1e-14)


def test_robust_dpo_is_ln_2_where_policy_and_reference_agree():
    assert value(robust_dpo_loss, 0.0, 0.1, 0.3) == pytest.approx(LN2, rel=1e-14)


def test_robust_dpo_becomes_negative_for_a_large_margin():
    # the slope towards infinity is -e beta / (1 - 2 e)
    assert value(robust_dpo_loss, 1000.0, 0.1, 0.2) == pytest.approx(-0.2 / 0.6 * 100, rel=1e-12)


@quick
@given(margins, betas)
def test_robust_dpo_without_flipped_labels_is_dpo(margin, beta):
    assert value(robust_dpo_loss, margin, beta, 0.0) == value(dpo_loss, margin, beta)


@quick
@given(margins, betas, smoothings)
def test_robust_dpo_is_unbiased_under_flipped_labels(margin, beta, flipped):
    expected = (1 - flipped) * value(robust_dpo_loss, margin, beta, flipped)
    expected += flipped * value(robust_dpo_loss, -margin, beta, flipped)
    # both terms are of the order of beta |m| / (1 - 2 e), and cancel
    assert expected == pytest.approx(value(dpo_loss, margin, beta), abs=1e-11)


def test_hinge_is_one_where_policy_and_reference_agree():
    assert value(hinge_loss, 0.0, 0.1) == 1.0


@pytest.mark.parametrize(("margin", "expected", "derivative"), [(-5, 1.5, -0.1), (9.9, 0.01, -0.1), (11.0, 0.0, 0.0)])
def test_hinge_falls_with_slope_beta_to_zero_at_one_over_beta(margin, expected, derivative):
    assert value(hinge_loss, margin, 0.1) == pytest.approx(expected, rel=1e-9)
    assert slope(hinge_loss, margin, 0.1) == pytest.approx(derivative, rel=1e-12)


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
def test_ipo_is_one_over_four_tau_squared_where_policy_and_reference_agree(tau):
    assert value(ipo_loss, 0.0, tau) == pytest.approx(1 / (4 * tau**2), rel=1e-14)


def test_ipo_is_a_parabola_around_one_over_two_tau():
    assert value(ipo_loss, 5.0, 0.1) == 0
    assert value(ipo_loss, 8.0, 0.1) == pytest.approx(9, rel=1e-14)
    assert slope(ipo_loss, 8.0, 0.1) == pytest.approx(6, rel=1e-14)


def test_simpo_is_ln_2_where_the_scaled_margin_is_the_target():
    assert value(simpo_loss, 0.25, 4.0, 1.0) == pytest.approx(LN2, rel=1e-15)


def test_simpo_takes_the_target_after_scaling():
    # beta (m - gamma) would be -log sigmoid(-2)
    assert value(simpo_loss, 0.5, 4.0, 1.0) == pytest.approx(math.log1p(math.exp(-1)), rel=1e-14)


@quick
@given(margins, betas)
def test_simpo_without_a_target_is_dpo_of_its_margin(margin, beta):
    assert value(simpo_loss, margin, beta, 0.0) == value(dpo_loss, margin, beta)


# properties


def decreasing(margin):
    return {
        "odds ratio": value(odds_ratio_loss, margin),
        "dpo": value(dpo_loss, margin, 0.5),
        "robust": value(robust_dpo_loss, margin, 0.5, 0.2),
        "hinge": value(hinge_loss, margin, 0.5),
        "simpo": value(simpo_loss, margin, 0.5, 1.0),
    }


@quick
@given(margins, st.floats(1e-6, 10))
def test_every_loss_but_the_ones_with_a_target_falls_with_the_margin(margin, step):
    here, further = decreasing(margin), decreasing(margin + step)
    assert {name for name in here if further[name] > here[name]} == set()
    assert further["dpo"] < here["dpo"]
    assert further["robust"] < here["robust"]


@quick
@given(st.floats(-50, -1e-6), st.floats(-50, -1e-6))
def test_log_odds_keep_the_order_of_the_log_probabilities(a, b):
    assume(b - a > 1e-9)
    assert value(log_odds, a) < value(log_odds, b)


@quick
@given(margins, betas)
def test_swapping_the_responses_changes_the_logistic_losses_by_the_margin(margin, beta):
    assert value(dpo_loss, -margin, beta) - value(dpo_loss, margin, beta) == pytest.approx(beta * margin, abs=1e-10)
    assert value(odds_ratio_loss, -margin) - value(odds_ratio_loss, margin) == pytest.approx(margin, abs=1e-10)


@quick
@given(margins, betas, smoothings)
def test_swapping_the_responses_swaps_the_probability_of_a_flipped_label(margin, beta, flipped):
    swapped = value(dpo_loss, -margin, beta, 1 - flipped)
    assert value(dpo_loss, margin, beta, flipped) == pytest.approx(swapped, rel=1e-12, abs=1e-12)


@quick
@given(margins)
def test_ipo_is_symmetric_around_its_target(distance):
    assert value(ipo_loss, 5 + distance, 0.1) == pytest.approx(value(ipo_loss, 5 - distance, 0.1), rel=1e-9, abs=1e-9)


# precision

FUNCTIONS = {
    "log1mexp": lambda x: log1mexp(x),
    "log_odds": lambda x: log_odds(x),
    "odds_ratio_loss": lambda x: odds_ratio_loss(x),
    "token_mean_nll": lambda x: token_mean_nll(x, 3.0),
    "sequence_mean_nll": lambda x: sequence_mean_nll(x, torch.tensor([1, 2, 3, 4])),
    "dpo_loss": lambda x: dpo_loss(x, 0.1, 0.1),
    "robust_dpo_loss": lambda x: robust_dpo_loss(x, 0.1, 0.1),
    "hinge_loss": lambda x: hinge_loss(x, 0.1),
    "ipo_loss": lambda x: ipo_loss(x, 0.1),
    "simpo_loss": lambda x: simpo_loss(x, 2.0, 1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_fp32_before_anything_is_computed(name, dtype):
    x = tensor(-0.0078125, -0.3, -3.0, -1e4, dtype=dtype)
    result = FUNCTIONS[name](x)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert torch.equal(result, FUNCTIONS[name](x.float()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fp64_stays_fp64_and_nothing_is_reduced(name):
    result = FUNCTIONS[name](tensor(-0.01, -0.3, -3.0, -1e4))
    assert result.dtype == torch.float64
    assert result.shape == (4,)


# KTO


@pytest.mark.parametrize(
    ("log_ratio", "reference_point", "desirable", "expected"),
    [
        # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4; beta = 0.5
        (2 * math.log(3), 0.0, True, 1 / 4),
        (2 * math.log(3), 0.0, False, 3 / 4),
        (0.0, 2 * math.log(3), True, 3 / 4),
        (0.0, 2 * math.log(3), False, 1 / 4),
        (1.0, 1.0, True, 1 / 2),
        (1.0, 1.0, False, 1 / 2),
    ],
)
@pytest.mark.parametrize(("desirable_weight", "undesirable_weight"), [(1.0, 1.0), (1.5, 0.25)])
def test_the_kto_loss_where_the_sigmoid_is_a_simple_fraction(
    log_ratio, reference_point, desirable, expected, desirable_weight, undesirable_weight
):
    found = kto_loss(
        tensor(log_ratio), tensor(reference_point), torch.tensor([desirable]), 0.5, desirable_weight, undesirable_weight
    )
    assert found.item() == pytest.approx(expected * (desirable_weight if desirable else undesirable_weight), rel=1e-14)


@quick
@given(margins, st.floats(0, 60), betas, st.booleans())
def test_the_kto_loss_is_one_minus_the_sigmoid_of_the_gain(h, z, beta, desirable):
    found = kto_loss(tensor(h), tensor(z), torch.tensor([desirable]), beta).item()
    gain = beta * (h - z) if desirable else beta * (z - h)
    assert found == pytest.approx(exact(lambda gain: 1 - 1 / (1 + mpmath.exp(-gain)), gain), rel=1e-9, abs=1e-300)


@quick
@given(margins, st.floats(0, 60), betas)
def test_the_two_kinds_of_one_response_lose_one_together(h, z, beta):
    both = [kto_loss(tensor(h), tensor(z), torch.tensor([kind]), beta).item() for kind in (True, False)]
    assert sum(both) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("desirable", [True, False])
@pytest.mark.parametrize("h", [-30.0, -1.0, 0.0, 4.0, 30.0])
def test_as_beta_vanishes_every_kto_loss_is_half_its_weight(h, desirable):
    found = kto_loss(tensor(h), tensor(2.0), torch.tensor([desirable]), 1e-12, 3.0, 5.0).item()
    assert found == pytest.approx((3.0 if desirable else 5.0) / 2, rel=1e-9)


@pytest.mark.parametrize("h", [-8.0, -1.0, 0.0, 2.0, 9.0])
def test_the_slope_of_the_kto_loss_is_beta_times_the_variance_of_the_sigmoid(h):
    beta, z = 0.3, 1.5
    p = 1 / (1 + math.exp(-beta * (h - z)))
    for desirable, weight in ((True, -2.0), (False, 0.5)):
        found = slope(kto_loss, h, tensor(z), torch.tensor([desirable]), beta, 2.0, 0.5)
        assert found == pytest.approx(weight * beta * p * (1 - p), rel=1e-12)


def test_no_gradient_goes_through_the_reference_point():
    z = tensor(1.0).requires_grad_()
    h = tensor(2.0).requires_grad_()
    kto_loss(h, z, torch.tensor([True]), 0.1).sum().backward()
    assert h.grad.item() != 0
    assert z.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("h", [-1e30, -1e4, -88.0, 0.0, 88.0, 1e4, 1e30])
def test_the_kto_loss_and_its_gradient_are_finite_at_both_extremes(h, dtype):
    h = torch.full((2,), h, dtype=dtype).requires_grad_()
    loss = kto_loss(h, torch.zeros((), dtype=dtype), torch.tensor([True, False]), 5.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert h.grad.isfinite().all()


def test_a_gain_so_large_that_its_sigmoid_rounds_to_one_still_has_a_slope():
    # 1 - sigmoid(60) is 0 in fp32, and so is its gradient
    assert value(kto_loss, 60.0, tensor(0.0), torch.tensor([True]), 1.0) == pytest.approx(math.exp(-60), rel=1e-6)
    h = torch.tensor([60.0], requires_grad=True)
    kto_loss(h, torch.tensor(0.0), torch.tensor([True]), 1.0).sum().backward()
    assert h.grad.item() == pytest.approx(-math.exp(-60), rel=1e-5)


def test_the_reference_point_is_the_mean_and_at_least_zero():
    assert kto_reference_point(tensor(1.0, 2.0, 6.0)).item() == 3.0
    assert kto_reference_point(tensor(1.0, 2.0, -6.0)).item() == 0.0
    assert kto_reference_point(tensor(0.0)).item() == 0.0


def test_the_reference_point_is_a_weighted_mean_that_does_not_look_at_values_of_weight_0():
    assert kto_reference_point(tensor(1.0, 4.0, math.nan), tensor(2.0, 1.0, 0.0)).item() == 2.0
    assert kto_reference_point(tensor(1.0, math.nan), torch.zeros(2)).item() == 0.0


def test_the_reference_point_has_no_gradient():
    assert not kto_reference_point(tensor(1.0, 2.0).requires_grad_()).requires_grad


@quick
@given(st.lists(margins, min_size=1, max_size=8), st.randoms())
def test_the_reference_point_does_not_depend_on_the_order(values, random):
    shuffled = random.sample(values, len(values))
    assert kto_reference_point(tensor(*shuffled)).item() == pytest.approx(
        kto_reference_point(tensor(*values)).item(), rel=1e-12, abs=1e-12
    )
