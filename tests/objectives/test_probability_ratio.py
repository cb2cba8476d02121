import math

import pytest
import torch

from orpo_lightning.objectives import ORPO, SFT, ProbabilityRatio, SimPO
from orpo_lightning.records import PairLogps
from orpo_lightning.testing import make_pairs

LN2 = math.log(2)


def pair(chosen_mean, rejected_mean):
    return PairLogps(
        chosen=torch.tensor([3 * chosen_mean], dtype=torch.float64).requires_grad_(),
        chosen_tokens=torch.tensor([3]),
        rejected=torch.tensor([2 * rejected_mean], dtype=torch.float64).requires_grad_(),
        rejected_tokens=torch.tensor([2]),
    )


def test_the_loss_is_the_likelihood_and_lambda_times_the_loss_of_the_ratio():
    # P = 1/2 and 1/8: their ratio is 4, and -log sigmoid(0.5 log 4) is log(1 + 1/2)
    output = ProbabilityRatio(lambda_=0.3, beta=0.5, nll_over="response")(pair(-LN2, -3 * LN2))
    assert output.loss.item() == pytest.approx(LN2 + 0.3 * math.log(1.5), rel=1e-12)
    assert output.terms["nll_loss"].item() == pytest.approx(LN2, rel=1e-12)
    assert output.terms["pr_loss"].item() == pytest.approx(math.log(1.5), rel=1e-12)
    assert set(output.terms) == {"nll_loss", "pr_loss"}


def test_rewards_are_beta_times_the_means():
    output = ProbabilityRatio(lambda_=0.3, beta=0.5)(make_pairs(pairs=5))
    torch.testing.assert_close(output.chosen_rewards, 0.5 * make_pairs(pairs=5).chosen_mean)
    torch.testing.assert_close(output.rejected_rewards, 0.5 * make_pairs(pairs=5).rejected_mean)


@pytest.mark.parametrize("nll_over", ["prompt_and_response", "response"])
@pytest.mark.parametrize("nll_mean", ["tokens", "sequences"])
def test_without_its_weight_it_is_sft_and_the_weighted_rest_is_simpo_without_a_target(nll_over, nll_mean):
    pairs, kind = make_pairs(pairs=20), {"nll_over": nll_over, "nll_mean": nll_mean}
    sft = SFT(**kind)(pairs).loss
    assert torch.equal(ProbabilityRatio(lambda_=0, **kind)(pairs).loss, sft)
    rest = ProbabilityRatio(lambda_=0.3, beta=2.0, **kind)(pairs).loss - sft
    torch.testing.assert_close(rest, 0.3 * SimPO(beta=2.0, gamma=0)(pairs).loss)


def test_where_both_probabilities_are_small_it_is_orpo():
    # odds and probability differ by the factor 1 - P, here e^-14 from 1
    found, orpo = (cls(lambda_=0.5, nll_over="response")(pair(-14.0, -15.0)) for cls in (ProbabilityRatio, ORPO))
    assert found.loss.item() == pytest.approx(orpo.loss.item(), rel=1e-6)


def test_where_the_chosen_probability_is_large_the_odds_are_content_and_the_ratio_is_not():
    # the same margin of 1 nat/token: the odds of 0.9 over 0.33 are 18 to 1, the probabilities 2.7 to 1
    def push(cls):
        pairs = pair(math.log(0.9), math.log(0.9) - 1)
        cls(lambda_=1.0, nll_over="response")(pairs).loss.sum().backward()
        return pairs.rejected.grad.item()

    ratio, odds = push(ProbabilityRatio), push(ORPO)
    assert ratio == pytest.approx(0.5 / (1 + math.e), rel=1e-9)  # 1 / tokens times sigmoid(-1)
    assert 0 < odds < ratio / 2


def test_it_needs_no_reference_and_prompts_as_told():
    assert not ProbabilityRatio().needs_reference
    assert ProbabilityRatio().needs_rejected
    assert [ProbabilityRatio(nll_over=over).needs_prompt_logps for over in ("prompt_and_response", "response")] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("name", "given", "accepted"), [("lambda_", -0.1, r"\[0, inf\)"), ("beta", 0, r"\(0, inf\)")])
def test_its_weight_is_not_negative_and_its_scale_positive(name, given, accepted):
    with pytest.raises(ValueError, match=rf"ProbabilityRatio: {name} = {given} is out of range; accepted: {accepted}"):
        ProbabilityRatio(**{name: given})
