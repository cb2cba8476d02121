import math

import pytest
import torch

from orpo_lightning.objectives import ORPO, SFT
from orpo_lightning.records import PairLogps
from orpo_lightning.testing import make_pairs

LN2 = math.log(2)
NLL_ARGUMENTS = [
    {"nll_over": over, "nll_mean": mean}
    for over in ("prompt_and_response", "response")
    for mean in ("tokens", "sequences")
]
LEAVES = ("chosen", "rejected", "chosen_full")


def pair(chosen_mean, rejected_mean, chosen_tokens=3, prompt_logp=-5.0):
    return PairLogps(
        chosen=torch.tensor([chosen_tokens * chosen_mean], dtype=torch.float64),
        chosen_tokens=torch.tensor([chosen_tokens]),
        rejected=torch.tensor([2 * rejected_mean], dtype=torch.float64),
        rejected_tokens=torch.tensor([2]),
        chosen_full=torch.tensor([chosen_tokens * chosen_mean + prompt_logp], dtype=torch.float64),
        chosen_full_tokens=torch.tensor([chosen_tokens + 4]),
    )


def with_gradients(logps):
    values = {name: logps.__dict__[name] for name in PairLogps.__dataclass_fields__}
    return PairLogps(**{**values, **{name: values[name].clone().requires_grad_() for name in LEAVES}})


def gradients(objective, logps):
    logps = with_gradients(logps)
    leaves = [getattr(logps, name) for name in LEAVES]
    found = torch.autograd.grad(objective(logps).loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(LEAVES, found, strict=True))


# values


def test_the_loss_is_the_likelihood_and_lambda_times_the_odds_ratio_loss():
    # P = 1/2 and 1/5, so the odds are 1 and 1/4 and their ratio is 4
    output = ORPO(lambda_=0.3, nll_over="response")(pair(-LN2, math.log(1 / 5)))
    assert output.loss.item() == pytest.approx(LN2 + 0.3 * math.log(5 / 4), rel=1e-12)


def test_the_terms_are_the_likelihood_the_odds_ratio_and_the_gradient_coefficients():
    terms = ORPO(lambda_=0.3, nll_over="response")(pair(-LN2, math.log(1 / 5))).terms
    expected = {
        "nll_loss": LN2,
        "or_loss": math.log(5 / 4),
        "log_odds_chosen": math.log(4),
        "delta": 1 / 5,
        "grad_coef/chosen": 1 / 5 / (1 - 1 / 2),
        "grad_coef/rejected": 1 / 5 / (1 - 1 / 5),
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-12)


def test_no_term_is_named_like_trls_log_sigmoid_of_the_odds_ratio():
    assert "log_odds_ratio" not in ORPO()(make_pairs()).terms


def test_the_rewards_are_lambda_times_the_mean_log_probabilities():
    output = ORPO(lambda_=0.3)(pair(-1.5, -4.0))
    assert output.chosen_rewards.item() == pytest.approx(-0.45, rel=1e-12)
    assert output.rejected_rewards.item() == pytest.approx(-1.2, rel=1e-12)


def test_identical_responses_have_an_odds_ratio_loss_of_ln_2():
    same = pair(-1.5, -1.5)
    terms = ORPO()(same).terms
    assert terms["or_loss"].item() == pytest.approx(LN2, rel=1e-15)
    assert terms["log_odds_chosen"].item() == 0
    assert terms["delta"].item() == 0.5


def test_the_odds_ratio_does_not_see_the_prompt():
    near, far = pair(-1.5, -4.0), pair(-1.5, -4.0, prompt_logp=-900.0)
    assert torch.equal(ORPO()(near).terms["or_loss"], ORPO()(far).terms["or_loss"])


def test_the_odds_ratio_loss_compares_means_so_length_alone_changes_nothing():
    short, long = pair(-1.5, -4.0, chosen_tokens=3), pair(-1.5, -4.0, chosen_tokens=96)
    assert torch.equal(ORPO()(short).terms["or_loss"], ORPO()(long).terms["or_loss"])


# lambda


@pytest.mark.parametrize("arguments", NLL_ARGUMENTS)
def test_lambda_zero_is_sft_exactly(arguments):
    logps = make_pairs(pairs=20)
    orpo, sft = ORPO(lambda_=0, **arguments), SFT(**arguments)
    assert torch.equal(orpo(logps).loss, sft(logps).loss)
    found, expected = gradients(orpo, logps), gradients(sft, logps)
    assert all(torch.equal(found[name], expected[name]) for name in LEAVES)


@pytest.mark.parametrize("arguments", NLL_ARGUMENTS)
def test_the_loss_is_linear_in_lambda(arguments):
    logps = make_pairs()
    none, once, thrice = (ORPO(lambda_=lambda_, **arguments)(logps).loss for lambda_ in (0, 0.2, 0.6))
    torch.testing.assert_close(thrice - none, 3 * (once - none), rtol=1e-12, atol=0)


# the likelihood


TWO_PAIRS = PairLogps(
    chosen=torch.tensor([-2.0, -10.0]),
    chosen_tokens=torch.tensor([1, 10]),
    rejected=torch.tensor([-4.0, -30.0]),
    rejected_tokens=torch.tensor([2, 10]),
    chosen_full=torch.tensor([-8.0, -12.0]),
    chosen_full_tokens=torch.tensor([5, 12]),
    tokens_per_pair=8.0,
    full_tokens_per_pair=16.0,
)


@pytest.mark.parametrize(
    ("nll_over", "nll_mean", "expected"),
    [
        ("response", "sequences", [2 / 1, 10 / 10]),
        ("response", "tokens", [2 / 8, 10 / 8]),
        ("prompt_and_response", "sequences", [8 / 5, 12 / 12]),
        ("prompt_and_response", "tokens", [8 / 16, 12 / 16]),
    ],
)
def test_the_likelihood_is_over_the_stated_tokens_and_divided_by_the_stated_count(nll_over, nll_mean, expected):
    output = ORPO(nll_over=nll_over, nll_mean=nll_mean)(TWO_PAIRS)
    assert output.terms["nll_loss"].tolist() == pytest.approx(expected, rel=1e-6)


def test_the_likelihood_is_over_prompt_and_response_and_a_mean_over_tokens_by_default():
    assert ORPO().arguments() == {"lambda_": 0.1, "nll_over": "prompt_and_response", "nll_mean": "tokens"}


@pytest.mark.parametrize("arguments", NLL_ARGUMENTS)
def test_the_loss_of_a_pair_is_the_same_alone_as_in_its_batch(arguments):
    logps = make_pairs(pairs=4)
    fields = ("chosen", "rejected", "chosen_full", "chosen_tokens", "rejected_tokens", "chosen_full_tokens")
    alone = [
        PairLogps(
            **{name: getattr(logps, name)[i : i + 1] for name in fields},
            tokens_per_pair=logps.tokens_per_pair,
            full_tokens_per_pair=logps.full_tokens_per_pair,
        )
        for i in range(4)
    ]
    objective = ORPO(**arguments)
    assert torch.equal(torch.cat([objective(one).loss for one in alone]), objective(logps).loss)


# gradients


def test_the_odds_ratio_raises_the_chosen_and_lowers_the_rejected_response():
    found = gradients(ORPO(), make_pairs(pairs=20))
    assert (found["chosen"] < 0).all()
    assert (found["rejected"] > 0).all()


def test_the_likelihood_raises_prompt_and_chosen_response():
    assert gradients(ORPO(), make_pairs())["chosen_full"].tolist() == pytest.approx([-1 / 16] * 5)


def test_the_gradient_coefficients_are_the_derivatives_of_the_odds_ratio_loss_by_the_means():
    # over prompt and response, the sums of the responses enter through the odds ratio alone
    logps, objective = make_pairs(pairs=20), ORPO(lambda_=0.3)
    terms, found = objective(logps).terms, gradients(objective, logps)
    by_chosen_mean = found["chosen"] * logps.chosen_tokens / 0.3
    by_rejected_mean = found["rejected"] * logps.rejected_tokens / 0.3
    torch.testing.assert_close(terms["grad_coef/chosen"], -by_chosen_mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(terms["grad_coef/rejected"], by_rejected_mean, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_delta_goes_from_one_for_a_wrong_order_to_zero_for_a_right_one(dtype):
    means = torch.tensor([-12.0, -0.01], dtype=dtype)
    one, full = torch.ones(2), means.clone()
    logps = PairLogps(
        chosen=means,
        chosen_tokens=one,
        rejected=means.flip(0),
        rejected_tokens=one,
        chosen_full=full,
        chosen_full_tokens=one,
    )
    wrong, right = ORPO()(logps).terms["delta"].tolist()
    # 1 + OR, OR = odds(0.99..) / odds(e^-12) one way round and its inverse the other
    ratio = math.exp(-0.01) / -math.expm1(-0.01) / (math.exp(-12) / -math.expm1(-12))
    assert wrong == pytest.approx(1 / (1 + 1 / ratio), rel=1e-5)
    assert right == pytest.approx(1 / (1 + ratio), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("chosen", "rejected"), [(0.0, 0.0), (0.0, -1e4), (-1e4, 0.0), (-1e4, -1e4), (-1e-8, -1e-8)])
def test_values_and_gradients_are_finite_for_certain_and_for_hopeless_responses(chosen, rejected, dtype):
    one = torch.ones(1)
    logps = with_gradients(
        PairLogps(
            chosen=torch.tensor([chosen], dtype=dtype),
            chosen_tokens=one,
            rejected=torch.tensor([rejected], dtype=dtype),
            rejected_tokens=one,
            chosen_full=torch.tensor([chosen], dtype=dtype),
            chosen_full_tokens=one,
        )
    )
    output = ORPO()(logps)
    output.loss.sum().backward()
    assert all(value.isfinite().all() for value in (output.loss, *output.terms.values()))
    assert all(getattr(logps, name).grad.isfinite().all() for name in LEAVES)


def test_only_the_loss_carries_a_gradient():
    output = ORPO()(with_gradients(make_pairs()))
    assert output.loss.requires_grad
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad
    assert [name for name, value in output.terms.items() if value.requires_grad] == []


# arguments


@pytest.mark.parametrize("lambda_", [-0.1, -1e-9, math.nan, math.inf])
def test_lambda_is_not_negative_and_finite(lambda_):
    with pytest.raises(ValueError, match=rf"ORPO: lambda_ = {lambda_!r} is out of range; accepted: \[0, inf\)"):
        ORPO(lambda_=lambda_)


def test_an_unknown_choice_of_tokens_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="ORPO: nll_over = 'prompt'; accepted: prompt_and_response, response"):
        ORPO(nll_over="prompt")


def test_an_unknown_mean_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="ORPO: nll_mean = 'pairs'; accepted: tokens, sequences"):
        ORPO(nll_mean="pairs")


@pytest.mark.parametrize(("nll_over", "needed"), [("prompt_and_response", True), ("response", False)])
def test_prompts_are_scored_only_for_a_likelihood_that_covers_them(nll_over, needed):
    assert ORPO(nll_over=nll_over).needs_prompt_logps is needed


def test_it_needs_rejected_responses_and_no_reference():
    assert ORPO().needs_rejected
    assert not ORPO().needs_reference
    assert not ORPO().couples_pairs
