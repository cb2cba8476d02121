import math

import pytest
import torch

from orpo_lightning.objectives import KTO
from orpo_lightning.records import UnpairedLogps
from orpo_lightning.testing import make_unpaired

BETA = math.log(3) / 2


def responses(logps, mismatched, desirable=(True, False), weight=(1.0, 1.0)):
    return UnpairedLogps(
        logps=torch.tensor(logps, dtype=torch.float64),
        tokens=torch.tensor([3, 4]),
        desirable=torch.tensor(desirable),
        weight=torch.tensor(weight),
        mismatched=torch.tensor(mismatched, dtype=torch.float64),
    )


# h = 5 and 1, h of the mismatched responses 4 and 2: z = 3
POLICY, REFERENCE = responses([-5.0, -9.0], [-6.0, -8.0]), responses([-10.0, -10.0], [-10.0, -10.0])


def test_a_desirable_response_above_and_an_undesirable_one_below_the_reference_point():
    output = KTO(beta=BETA)(POLICY, REFERENCE)
    # beta (h - z) is ln 3 for both kinds of gain
    assert output.loss.tolist() == pytest.approx([1 / 4, 1 / 4], rel=1e-12)
    assert output.terms["kl"].tolist() == [3.0, 3.0]
    assert output.rewards.tolist() == pytest.approx([5 * BETA, BETA], rel=1e-12)


def test_the_weights_are_those_of_the_two_kinds():
    output = KTO(beta=BETA, desirable_weight=2.0, undesirable_weight=0.5)(POLICY, REFERENCE)
    assert output.loss.tolist() == pytest.approx([2 / 4, 0.5 / 4], rel=1e-12)


def test_a_reference_point_below_zero_is_zero():
    output = KTO(beta=BETA)(POLICY, responses([-10.0, -10.0], [-1.0, -1.0]))
    assert output.terms["kl"].tolist() == [0.0, 0.0]
    assert output.loss.tolist() == pytest.approx([1 / (1 + 3**2.5), 1 - 1 / (1 + 3**0.5)], rel=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_where_policy_and_reference_agree_the_loss_is_half_the_weight_and_z_is_zero(beta):
    output = KTO(beta=beta, desirable_weight=1.2, undesirable_weight=0.8)(POLICY, POLICY)
    assert output.loss.tolist() == pytest.approx([0.6, 0.4], rel=1e-12)
    assert output.terms["kl"].tolist() == output.rewards.tolist() == [0.0, 0.0]


def test_a_row_of_weight_0_does_not_move_the_reference_point():
    policy = responses([-5.0, -9.0], [-6.0, math.nan], weight=(1.0, 0.0))
    assert KTO()(policy, REFERENCE).terms["kl"].tolist() == [4.0, 4.0]


def gradients(objective):
    policy = make_unpaired(20)
    policy = policy.replace(
        logps=policy.logps.requires_grad_(), mismatched=policy.mismatched.requires_grad_(), weight=torch.ones(20)
    )
    objective(policy, make_unpaired(20, seed=1)).loss.sum().backward()
    return policy


def test_desirable_responses_are_raised_and_undesirable_ones_lowered():
    policy = gradients(KTO())
    assert (policy.logps.grad[policy.desirable] < 0).all()
    assert (policy.logps.grad[~policy.desirable] > 0).all()


def test_the_mismatched_responses_have_no_gradient():
    assert gradients(KTO()).mismatched.grad is None


@pytest.mark.parametrize("desirable", [(True, True), (False, False)])
def test_a_batch_of_one_kind_only(desirable):
    output = KTO(beta=BETA)(responses([-5.0, -9.0], [-6.0, -8.0], desirable), REFERENCE)
    assert output.loss.isfinite().all()
    assert output.loss.shape == (2,)


def test_half_precision_is_raised():
    output = KTO()(make_unpaired(dtype=torch.bfloat16), make_unpaired(dtype=torch.bfloat16, seed=1))
    assert output.loss.dtype == output.rewards.dtype == output.terms["kl"].dtype == torch.float32


def test_it_needs_a_reference_and_mismatched_responses_and_no_pairs():
    objective = KTO()
    assert objective.needs_reference
    assert objective.needs_mismatched
    assert objective.needs_rejected
    assert objective.couples_pairs
    assert not objective.needs_pairs
    assert not objective.needs_prompt_logps


@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf])
def test_beta_is_positive_and_finite(beta):
    with pytest.raises(ValueError, match=rf"KTO: beta = {beta!r} is out of range; accepted: \(0, inf\)"):
        KTO(beta=beta)


@pytest.mark.parametrize("name", ["desirable_weight", "undesirable_weight"])
@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_are_not_negative(name, weight):
    with pytest.raises(ValueError, match=rf"KTO: {name} = {weight!r} is out of range; accepted: \[0, inf\)"):
        KTO(**{name: weight})
