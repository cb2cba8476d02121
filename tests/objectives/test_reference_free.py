import math

import pytest
import torch

from orpo_lightning.functional import dpo_loss
from orpo_lightning.objectives import CPO, SFT, SimPO
from orpo_lightning.records import PairLogps
from orpo_lightning.testing import make_pairs

LN2 = math.log(2)
NLL_ARGUMENTS = [
    {"nll_over": over, "nll_mean": mean}
    for over in ("prompt_and_response", "response")
    for mean in ("tokens", "sequences")
]

# per token, the first pair has -2 and -4 and the second -1 and -3
TWO_PAIRS = PairLogps(
    chosen=torch.tensor([-2.0, -10.0], dtype=torch.float64),
    chosen_tokens=torch.tensor([1, 10]),
    rejected=torch.tensor([-8.0, -30.0], dtype=torch.float64),
    rejected_tokens=torch.tensor([2, 10]),
    chosen_full=torch.tensor([-8.0, -12.0], dtype=torch.float64),
    chosen_full_tokens=torch.tensor([5, 12]),
    tokens_per_pair=8.0,
    full_tokens_per_pair=16.0,
)
EVERY_LIKELIHOOD = [
    ("response", "sequences", [2 / 1, 10 / 10]),
    ("response", "tokens", [2 / 8, 10 / 8]),
    ("prompt_and_response", "sequences", [8 / 5, 12 / 12]),
    ("prompt_and_response", "tokens", [8 / 16, 12 / 16]),
]


def log1p_exp(x):
    return math.log1p(math.exp(x))


def with_gradients(logps):
    values = {name: logps.__dict__[name] for name in PairLogps.__dataclass_fields__}
    leaves = {name: values[name].clone().requires_grad_() for name in ("chosen", "rejected", "chosen_full")}
    return PairLogps(**{**values, **leaves})


# SFT


@pytest.mark.parametrize(("nll_over", "nll_mean", "expected"), EVERY_LIKELIHOOD)
def test_sft_is_the_likelihood_over_the_stated_tokens_divided_by_the_stated_count(nll_over, nll_mean, expected):
    output = SFT(nll_over=nll_over, nll_mean=nll_mean)(TWO_PAIRS)
    assert output.loss.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(output.terms["nll_loss"], output.loss)


def test_sft_averages_over_the_tokens_of_prompt_and_response_by_default():
    assert SFT().arguments() == {"nll_over": "prompt_and_response", "nll_mean": "tokens"}


@pytest.mark.parametrize("nll_mean", ["tokens", "sequences"])
def test_sft_runs_without_rejected_responses_and_without_prompts(nll_mean):
    chosen_only = PairLogps(chosen=TWO_PAIRS.chosen, chosen_tokens=TWO_PAIRS.chosen_tokens, tokens_per_pair=8.0)
    objective = SFT(nll_over="response", nll_mean=nll_mean)
    assert torch.equal(objective(chosen_only).loss, objective(TWO_PAIRS).loss)


def test_sft_has_no_rewards():
    output = SFT()(TWO_PAIRS)
    assert output.chosen_rewards is None
    assert output.rejected_rewards is None


def test_sft_over_these_pairs_alone_is_the_mean_over_their_tokens():
    here = PairLogps(chosen=TWO_PAIRS.chosen, chosen_tokens=TWO_PAIRS.chosen_tokens)
    assert SFT(nll_over="response")(here).loss.mean().item() == pytest.approx(12 / 11, rel=1e-12)


@pytest.mark.parametrize(("nll_over", "needed"), [("prompt_and_response", True), ("response", False)])
def test_sft_needs_neither_reference_nor_rejected_responses_and_prompts_as_told(nll_over, needed):
    objective = SFT(nll_over=nll_over)
    assert not objective.needs_reference
    assert not objective.needs_rejected
    assert objective.needs_prompt_logps is needed


# SimPO


def test_simpo_is_ln_2_where_the_margin_of_the_rewards_is_gamma():
    # both pairs have a margin of 2 nats per token
    assert SimPO(beta=2.5, gamma=5.0)(TWO_PAIRS).loss.tolist() == pytest.approx([LN2, LN2], rel=1e-12)


def test_simpo_scales_the_means_and_then_takes_the_target():
    assert SimPO(beta=2.0, gamma=1.0)(TWO_PAIRS).loss.tolist() == pytest.approx([log1p_exp(-3.0)] * 2, rel=1e-12)


def test_simpo_rewards_are_beta_times_the_means():
    output = SimPO(beta=2.5)(TWO_PAIRS)
    assert output.chosen_rewards.tolist() == [-5.0, -2.5]
    assert output.rejected_rewards.tolist() == [-10.0, -7.5]


def test_simpo_ignores_length_at_a_given_mean():
    longer = PairLogps(
        chosen=7 * TWO_PAIRS.chosen,
        chosen_tokens=7 * TWO_PAIRS.chosen_tokens,
        rejected=TWO_PAIRS.rejected,
        rejected_tokens=TWO_PAIRS.rejected_tokens,
    )
    torch.testing.assert_close(SimPO()(longer).loss, SimPO()(TWO_PAIRS).loss, rtol=1e-14, atol=0)


def test_simpo_needs_rejected_responses_and_nothing_else():
    assert SimPO().needs_rejected
    assert not SimPO().needs_reference
    assert not SimPO().needs_prompt_logps


# CPO


def test_cpo_is_dpo_against_a_uniform_reference_and_the_likelihood_of_the_chosen_response():
    # summed margins of 6 and 20
    expected = [log1p_exp(-0.6) + 2 / 8, log1p_exp(-2.0) + 10 / 8]
    assert CPO(beta=0.1)(TWO_PAIRS).loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_cpo_weighs_the_likelihood_with_alpha():
    expected = [log1p_exp(-0.6) + 0.3 * 2 / 8, log1p_exp(-2.0) + 0.3 * 10 / 8]
    assert CPO(beta=0.1, alpha=0.3)(TWO_PAIRS).loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_cpo_smooths_labels_as_dpo_does():
    expected = [0.9 * log1p_exp(-0.6) + 0.1 * log1p_exp(0.6), 0.9 * log1p_exp(-2.0) + 0.1 * log1p_exp(2.0)]
    found = CPO(beta=0.1, alpha=0, label_smoothing=0.1)(TWO_PAIRS).loss
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_cpo_rewards_are_beta_times_the_sums():
    output = CPO(beta=0.5)(TWO_PAIRS)
    assert output.chosen_rewards.tolist() == [-1.0, -5.0]
    assert output.rejected_rewards.tolist() == [-4.0, -15.0]


@pytest.mark.parametrize(("nll_over", "nll_mean", "expected"), EVERY_LIKELIHOOD)
def test_cpo_logs_the_likelihood_and_the_preference_loss_apart(nll_over, nll_mean, expected):
    output = CPO(beta=0.1, alpha=0.3, nll_over=nll_over, nll_mean=nll_mean)(TWO_PAIRS)
    assert set(output.terms) == {"nll_loss", "preference_loss"}
    assert output.terms["nll_loss"].tolist() == pytest.approx(expected, rel=1e-12)
    assert output.terms["preference_loss"].tolist() == pytest.approx([log1p_exp(-0.6), log1p_exp(-2.0)], rel=1e-12)
    torch.testing.assert_close(output.terms["preference_loss"] + 0.3 * output.terms["nll_loss"], output.loss)


def test_cpo_has_the_likelihood_of_the_response_as_a_mean_over_tokens_by_default():
    assert (CPO().nll_over, CPO().nll_mean, CPO().alpha) == ("response", "tokens", 1.0)


@pytest.mark.parametrize(("nll_over", "needed"), [("prompt_and_response", True), ("response", False)])
def test_cpo_needs_rejected_responses_no_reference_and_prompts_as_told(nll_over, needed):
    objective = CPO(nll_over=nll_over)
    assert objective.needs_rejected
    assert not objective.needs_reference
    assert objective.needs_prompt_logps is needed


# gradients


@pytest.mark.parametrize("objective", [SimPO(), CPO(), CPO(alpha=0)], ids=repr)
def test_preferences_raise_every_chosen_and_lower_every_rejected_response(objective):
    logps = with_gradients(make_pairs(pairs=20))
    objective(logps).loss.sum().backward()
    assert (logps.chosen.grad < 0).all()
    assert (logps.rejected.grad > 0).all()


@pytest.mark.parametrize("arguments", NLL_ARGUMENTS)
def test_cpo_with_the_weakest_preference_has_the_gradient_of_sft(arguments):
    weak, sft = with_gradients(make_pairs()), with_gradients(make_pairs())
    CPO(beta=1e-12, **arguments)(weak).loss.sum().backward()
    SFT(**arguments)(sft).loss.sum().backward()
    seen = "chosen" if arguments["nll_over"] == "response" else "chosen_full"
    assert getattr(sft, seen).grad.all()
    torch.testing.assert_close(getattr(weak, seen).grad, getattr(sft, seen).grad, rtol=1e-9, atol=0)


@pytest.mark.parametrize("objective", [SFT(), SimPO(), CPO()], ids=repr)
def test_only_the_loss_carries_a_gradient(objective):
    output = objective(with_gradients(TWO_PAIRS))
    logged = [output.chosen_rewards, output.rejected_rewards, *output.terms.values()]
    assert output.loss.requires_grad
    assert not any(value.requires_grad for value in logged if value is not None)


def test_cpo_without_a_likelihood_is_dpo_of_the_summed_margin():
    logps = make_pairs(pairs=20)
    expected = dpo_loss(logps.chosen - logps.rejected, 0.3, 0.1)
    assert torch.equal(CPO(beta=0.3, alpha=0, label_smoothing=0.1)(logps).loss, expected)


# arguments


@pytest.mark.parametrize("beta", [0, -2.0, math.nan, math.inf])
@pytest.mark.parametrize("cls", [SimPO, CPO])
def test_beta_is_positive_and_finite(cls, beta):
    with pytest.raises(ValueError, match=rf"{cls.__name__}: beta = {beta!r} is out of range; accepted: \(0, inf\)"):
        cls(beta=beta)


@pytest.mark.parametrize("given", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize(("cls", "name"), [(SimPO, "gamma"), (CPO, "alpha")])
def test_gamma_and_alpha_are_not_negative_and_finite(cls, name, given):
    with pytest.raises(ValueError, match=rf"{cls.__name__}: {name} = {given!r} is out of range; accepted: \[0, inf\)"):
        cls(**{name: given})


@pytest.mark.parametrize("label_smoothing", [0.5, 0.7, -0.1, math.nan])
def test_fewer_than_half_of_the_labels_are_flipped(label_smoothing):
    message = rf"CPO: label_smoothing = {label_smoothing!r} is out of range; accepted: \[0, 0\.5\)"
    with pytest.raises(ValueError, match=message):
        CPO(label_smoothing=label_smoothing)


@pytest.mark.parametrize("cls", [SFT, CPO])
@pytest.mark.parametrize(
    ("name", "given", "accepted"),
    [("nll_over", "chosen", "prompt_and_response, response"), ("nll_mean", "token", "tokens, sequences")],
)
def test_an_unknown_kind_of_likelihood_is_refused_with_the_choices(cls, name, given, accepted):
    with pytest.raises(ValueError, match=f"{cls.__name__}: {name} = '{given}'; accepted: {accepted}"):
        cls(**{name: given})
