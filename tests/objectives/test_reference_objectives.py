import math

import pytest
import torch

from orpo_lightning.objectives import DPO, IPO, HingeDPO, RobustDPO
from orpo_lightning.records import PairLogps
from orpo_lightning.testing import make_pairs

LN2 = math.log(2)
ALL = [
    *(cls(length_normalized=normalized) for cls in (DPO, HingeDPO, IPO) for normalized in (False, True)),
    RobustDPO(label_smoothing=0.2),
    RobustDPO(label_smoothing=0.2, length_normalized=True),
    DPO(label_smoothing=0.2),
]


def responses(chosen, rejected):
    return PairLogps(
        chosen=torch.tensor([chosen], dtype=torch.float64),
        chosen_tokens=torch.tensor([4]),
        rejected=torch.tensor([rejected], dtype=torch.float64),
        rejected_tokens=torch.tensor([2]),
    )


# h_w = 2 and h_l = -1 summed, 1/2 and -1/2 per token
POLICY, REFERENCE = responses(-10.0, -9.0), responses(-12.0, -8.0)


def loss(objective):
    return objective(POLICY, REFERENCE).loss.item()


def rewards(objective):
    output = objective(POLICY, REFERENCE)
    return output.chosen_rewards.item(), output.rejected_rewards.item()


def log1p_exp(x):
    return math.log1p(math.exp(x))


# values


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (DPO(beta=math.log(3) / 3), math.log(4 / 3)),
        (DPO(beta=0.5), log1p_exp(-1.5)),
        (DPO(beta=0.5, label_smoothing=0.1), 0.9 * log1p_exp(-1.5) + 0.1 * log1p_exp(1.5)),
        (DPO(beta=5.0, length_normalized=True), log1p_exp(-5.0)),
        (RobustDPO(beta=0.5, label_smoothing=0.1), (0.9 * log1p_exp(-1.5) - 0.1 * log1p_exp(1.5)) / 0.8),
        (HingeDPO(beta=0.1), 0.7),
        (HingeDPO(beta=0.5), 0.0),
        (HingeDPO(beta=0.5, length_normalized=True), 0.5),
        (IPO(tau=0.1), (1 - 5) ** 2),
        (IPO(tau=0.1, length_normalized=False), (3 - 5) ** 2),
    ],
    ids=repr,
)
def test_the_loss_of_a_pair_with_log_ratios_of_two_and_minus_one(objective, expected):
    assert loss(objective) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (DPO(beta=0.5), (1.0, -0.5)),
        (DPO(beta=0.5, label_smoothing=0.1), (1.0, -0.5)),
        (DPO(beta=5.0, length_normalized=True), (2.5, -2.5)),
        (RobustDPO(beta=0.5, label_smoothing=0.1), (1.0, -0.5)),
        (HingeDPO(beta=0.5), (1.0, -0.5)),
        (IPO(tau=0.1), (0.05, -0.05)),
        (IPO(tau=0.1, length_normalized=False), (0.2, -0.1)),
    ],
    ids=repr,
)
def test_the_rewards_are_the_log_ratios_times_the_strength(objective, expected):
    assert rewards(objective) == pytest.approx(expected, rel=1e-12)


# limits


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (DPO(), LN2),
        (DPO(label_smoothing=0.2), LN2),
        (DPO(length_normalized=True), LN2),
        (RobustDPO(label_smoothing=0.2), LN2),
        (HingeDPO(), 1.0),
        (IPO(tau=0.1), 25.0),
        (IPO(tau=0.5, length_normalized=False), 1.0),
    ],
    ids=repr,
)
def test_the_loss_where_policy_and_reference_agree(objective, expected):
    output = objective(POLICY, POLICY)
    assert output.loss.item() == pytest.approx(expected, rel=1e-12)
    assert output.chosen_rewards.item() == output.rejected_rewards.item() == 0


@pytest.mark.parametrize("normalized", [False, True])
def test_robust_dpo_without_flipped_labels_is_dpo(normalized):
    policy, reference = make_pairs(pairs=20), make_pairs(pairs=20, seed=1)
    robust = RobustDPO(beta=0.3, label_smoothing=0, length_normalized=normalized)
    plain = DPO(beta=0.3, length_normalized=normalized)
    assert torch.equal(robust(policy, reference).loss, plain(policy, reference).loss)


@pytest.mark.parametrize("cls", [DPO, HingeDPO, IPO])
def test_length_normalisation_changes_nothing_for_responses_of_one_token(cls):
    one = {"chosen_tokens": torch.ones(1), "rejected_tokens": torch.ones(1)}
    policy, reference = (
        PairLogps(chosen=logps.chosen, rejected=logps.rejected, **one) for logps in (POLICY, REFERENCE)
    )
    summed, per_token = (cls(length_normalized=normalized)(policy, reference) for normalized in (False, True))
    assert torch.equal(summed.loss, per_token.loss)


def test_ipo_is_per_token_and_dpo_is_summed_by_default():
    assert IPO().length_normalized
    assert not DPO().length_normalized
    assert not RobustDPO().length_normalized
    assert not HingeDPO().length_normalized


# gradients


def gradients(objective, policy):
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    tokens = {"chosen_tokens": policy.chosen_tokens, "rejected_tokens": policy.rejected_tokens}
    logps = PairLogps(chosen=chosen, rejected=rejected, **tokens)
    objective(logps, make_pairs(pairs=len(chosen), seed=1)).loss.sum().backward()
    return chosen.grad, rejected.grad


@pytest.mark.parametrize("objective", [DPO(), DPO(length_normalized=True), RobustDPO(label_smoothing=0.2)], ids=repr)
def test_the_logistic_losses_raise_every_chosen_and_lower_every_rejected_response(objective):
    by_chosen, by_rejected = gradients(objective, make_pairs(pairs=20))
    assert (by_chosen < 0).all()
    assert (by_rejected > 0).all()


def test_ipo_pulls_the_margin_back_beyond_its_target():
    by_margin = {}
    for chosen in (-10.0, -1.0):
        policy = responses(chosen, -9.0)
        policy.chosen.requires_grad_()
        IPO(tau=0.25, length_normalized=False)(policy, REFERENCE).loss.sum().backward()
        by_margin[chosen] = policy.chosen.grad.item()
    # margins of 3 and 12 for a target of 2: 2 (m - 2)
    assert by_margin == pytest.approx({-10.0: 2.0, -1.0: 20.0}, rel=1e-12)


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_the_two_responses_pull_with_equal_force_up_to_their_lengths(objective):
    policy = make_pairs(pairs=20)
    by_chosen, by_rejected = gradients(objective, policy)
    if objective.length_normalized:
        by_chosen, by_rejected = by_chosen * policy.chosen_tokens, by_rejected * policy.rejected_tokens
    assert by_chosen.any()
    torch.testing.assert_close(by_chosen, -by_rejected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_the_rewards_carry_no_gradient(objective):
    policy = responses(-10.0, -9.0)
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    output = objective(policy, REFERENCE)
    assert output.loss.requires_grad
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad


# needs and arguments


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_they_need_a_reference_and_rejected_responses_and_no_prompts(objective):
    assert objective.needs_reference
    assert objective.needs_rejected
    assert not objective.needs_prompt_logps
    assert not objective.couples_pairs


@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("cls", [DPO, RobustDPO, HingeDPO])
def test_beta_is_positive_and_finite(cls, beta):
    with pytest.raises(ValueError, match=rf"{cls.__name__}: beta = {beta!r} is out of range; accepted: \(0, inf\)"):
        cls(beta=beta)


@pytest.mark.parametrize("tau", [0, -0.1, math.nan, math.inf])
def test_tau_is_positive_and_finite(tau):
    with pytest.raises(ValueError, match=rf"IPO: tau = {tau!r} is out of range; accepted: \(0, inf\)"):
        IPO(tau=tau)


@pytest.mark.parametrize("label_smoothing", [0.5, 0.7, 1.0, -0.1, math.nan])
@pytest.mark.parametrize("cls", [DPO, RobustDPO])
def test_fewer_than_half_of_the_labels_are_flipped(cls, label_smoothing):
    message = rf"{cls.__name__}: label_smoothing = {label_smoothing!r} is out of range; accepted: \[0, 0\.5\)"
    with pytest.raises(ValueError, match=message):
        cls(label_smoothing=label_smoothing)
