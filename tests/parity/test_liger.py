# Values and gradients against Liger's chunked losses, on the same hidden states, head and tokens, on CPU and without
# torch.compile. All that is said here of Liger was observed with liger_kernel 0.8.5, which has no IPO.

import pytest
import torch

from orpo_lightning.functional import log_odds, odds_ratio_loss
from orpo_lightning.objectives import CPO, DPO, ORPO, HingeDPO, RobustDPO, SimPO
from orpo_lightning.records import PairLogps

liger = pytest.importorskip("liger_kernel.chunked_loss")
liger_orpo = pytest.importorskip("liger_kernel.chunked_loss.orpo_loss").LigerFusedLinearORPOFunction

PAIRS, LENGTH, HIDDEN, VOCABULARY = 4, 9, 16, 31
IGNORED = -100
# predicted tokens of the prompts, and of prompts and responses together: chosen, then rejected
PROMPTS = torch.tensor([2, 0, 4, 1] * 2)
ENDS = torch.tensor([9, 5, 6, 8, 7, 3, 9, 2])


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_order(low, high):
    position = torch.arange(LENGTH)
    return (position >= low[:, None]) & (position < high[:, None])


TOKENS = torch.randint(VOCABULARY, (2 * PAIRS, LENGTH), generator=torch.Generator().manual_seed(0))
RESPONSES = TOKENS.masked_fill(~in_order(PROMPTS, ENDS), IGNORED)
PROMPTS_AND_RESPONSES = TOKENS.masked_fill(~in_order(torch.zeros_like(PROMPTS), ENDS), IGNORED)
REFERENCE = {"ref_input": random(2 * PAIRS, LENGTH, HIDDEN, seed=1), "ref_weight": random(VOCABULARY, HIDDEN, seed=2)}


def parameters():
    hidden, weight = random(2 * PAIRS, LENGTH, HIDDEN, seed=3), random(VOCABULARY, HIDDEN, seed=4)
    return hidden.requires_grad_(), (0.5 * weight).requires_grad_()


def score(hidden, weight, **global_means):
    logps = (hidden @ weight.T).log_softmax(-1).gather(2, TOKENS[:, :, None])[:, :, 0]
    response, full = RESPONSES != IGNORED, PROMPTS_AND_RESPONSES != IGNORED
    sums, full_sums = logps.masked_fill(~response, 0).sum(1), logps.masked_fill(~full, 0).sum(1)
    return PairLogps(
        chosen=sums[:PAIRS],
        rejected=sums[PAIRS:],
        chosen_tokens=response.sum(1)[:PAIRS],
        rejected_tokens=response.sum(1)[PAIRS:],
        chosen_full=full_sums[:PAIRS],
        chosen_full_tokens=full.sum(1)[:PAIRS],
        **global_means,
    )


def reference_logps():
    return score(REFERENCE["ref_input"], REFERENCE["ref_weight"])


def run(loss, hidden, weight, target=RESPONSES, **inputs):
    value, extras = loss(weight, hidden, target, **inputs)
    return value, extras


def assert_same(objective, loss, **inputs):
    hidden, weight = parameters()
    theirs, _ = run(loss, hidden, weight, **inputs)
    theirs_by = torch.autograd.grad(theirs, (hidden, weight))
    ours = objective(score(hidden, weight), reference_logps()).loss.mean()
    ours_by = torch.autograd.grad(ours, (hidden, weight))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)
    assert all(each.norm() > 1e-3 for each in theirs_by)
    torch.testing.assert_close(ours_by, theirs_by, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("lambda_", [0.1, 1.0])
def test_orpo_over_the_response(lambda_, chunk_size):
    loss = liger.LigerFusedLinearORPOLoss(beta=lambda_, compiled=False, chunk_size=chunk_size)
    assert_same(ORPO(lambda_=lambda_, nll_over="response"), loss)


def test_orpo_over_prompt_and_response():
    loss = liger.LigerFusedLinearORPOLoss(beta=0.3, compiled=False)
    assert_same(ORPO(lambda_=0.3), loss, nll_target=PROMPTS_AND_RESPONSES)


def test_orpo_logs_our_terms():
    hidden, weight = parameters()
    _, extras = run(liger.LigerFusedLinearORPOLoss(beta=0.3, compiled=False), hidden, weight)
    nll, chosen_rewards, rejected_rewards, log_odds_ratio, log_odds_chosen = extras[4:]
    output = ORPO(lambda_=0.3, nll_over="response")(score(hidden, weight))
    torch.testing.assert_close(chosen_rewards, output.chosen_rewards)
    torch.testing.assert_close(rejected_rewards, output.rejected_rewards)
    assert nll.item() == pytest.approx(output.terms["nll_loss"].mean().item(), rel=1e-5)
    assert log_odds_chosen.item() == pytest.approx(output.terms["log_odds_chosen"].mean().item(), rel=1e-5)
    # known difference: what Liger (after TRL) calls the log odds ratio is its log-sigmoid
    assert log_odds_ratio.item() == pytest.approx(-output.terms["or_loss"].mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss_type", "label_smoothing", "objective"),
    [
        ("sigmoid", 0.0, DPO(beta=0.1)),
        ("hinge", 0.0, HingeDPO(beta=0.1)),
        ("robust", 0.0, RobustDPO(beta=0.1)),
        ("robust", 0.2, RobustDPO(beta=0.1, label_smoothing=0.2)),
    ],
    ids=repr,
)
def test_dpo(loss_type, label_smoothing, objective):
    loss = liger.LigerFusedLinearDPOLoss(beta=0.1, loss_type=loss_type, label_smoothing=label_smoothing, compiled=False)
    assert_same(objective, loss, **REFERENCE)


def test_dpo_per_token():
    loss = liger.LigerFusedLinearDPOLoss(beta=5.0, average_log_prob=True, compiled=False)
    assert_same(DPO(beta=5.0, length_normalized=True), loss, **REFERENCE)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 5.0)])
def test_simpo_with_its_likelihood_switched_off(beta, gamma):
    loss = liger.LigerFusedLinearSimPOLoss(beta=beta, gamma=gamma, compute_nll_loss=False, compiled=False)
    assert_same(SimPO(beta=beta, gamma=gamma), loss)


@pytest.mark.parametrize(("alpha", "label_smoothing"), [(1.0, 0.0), (0.3, 0.2), (0.0, 0.1)])
def test_cpo(alpha, label_smoothing):
    loss = liger.LigerFusedLinearCPOLoss(beta=0.1, alpha=alpha, label_smoothing=label_smoothing, compiled=False)
    assert_same(CPO(beta=0.1, alpha=alpha, label_smoothing=label_smoothing), loss)


# known differences


def test_difference_ligers_likelihood_depends_on_the_split_of_the_batch_and_ours_does_not():
    hidden, weight = (each.detach() for each in parameters())
    loss = liger.LigerFusedLinearORPOLoss(compiled=False)
    halves = [torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3, 6, 7])]
    theirs = [run(loss, hidden[rows], weight, RESPONSES[rows])[0].item() for rows in halves]
    whole = run(loss, hidden, weight)[0].item()
    assert sum(theirs) / 2 != pytest.approx(whole, rel=1e-3)

    pairs, objective = score(hidden, weight), ORPO(nll_over="response")
    fields = ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
    given = {"tokens_per_pair": pairs.mean_tokens(False)}
    ours = [
        objective(PairLogps(**{name: getattr(pairs, name)[rows] for name in fields}, **given)).loss.mean().item()
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert sum(ours) / 2 == pytest.approx(whole, rel=1e-5)


def test_difference_ligers_likelihood_is_over_the_response_unless_told_and_our_orpo_over_the_prompt_too():
    hidden, weight = parameters()
    theirs, _ = run(liger.LigerFusedLinearORPOLoss(compiled=False), hidden, weight)
    assert theirs.item() != pytest.approx(ORPO()(score(hidden, weight)).loss.mean().item(), rel=1e-2)


def test_difference_ligers_simpo_adds_a_likelihood_by_default_and_ours_has_none():
    hidden, weight = parameters()
    theirs, extras = run(liger.LigerFusedLinearSimPOLoss(beta=2.0, gamma=1.0, compiled=False), hidden, weight)
    nll = extras[4].item()
    simpo = SimPO(beta=2.0, gamma=1.0)(score(hidden, weight)).loss.mean().item()
    assert nll > 0.1
    assert theirs.item() == pytest.approx(simpo + nll, rel=1e-5)


def test_difference_ligers_dpo_ignores_label_smoothing_and_ours_is_conservative():
    hidden, weight = parameters()
    plain, smoothed = (
        run(
            liger.LigerFusedLinearDPOLoss(label_smoothing=label_smoothing, compiled=False), hidden, weight, **REFERENCE
        )[0].item()
        for label_smoothing in (0.0, 0.2)
    )
    assert smoothed == plain
    conservative = DPO(label_smoothing=0.2)(score(hidden, weight), reference_logps()).loss.mean().item()
    assert conservative != pytest.approx(plain, rel=1e-2)


def odds_ratio_of_liger(chosen_means, rejected_means):
    loss, _, _, _, log_odds_ratio = liger_orpo.preference_loss_fn(
        chosen_means, rejected_means, full_target=torch.zeros(2, 1), beta=1.0
    )
    return loss, log_odds_ratio


def test_difference_ligers_log_odds_lose_precision_near_certainty_and_ours_do_not():
    even, near = torch.tensor([0.5]).log(), torch.tensor([-1e-7])
    # odds of about 1e7 to 1
    exact = 7 * torch.tensor(10.0).log().item()
    assert log_odds(near).item() == pytest.approx(exact, abs=1e-5)
    assert abs(odds_ratio_of_liger(near, even)[1].item() - exact) > 0.1


def test_difference_ligers_log_odds_are_infinite_once_exp_rounds_to_one_and_ours_are_not():
    even, nearer = torch.tensor([0.5]).log(), torch.tensor([-1e-8])
    assert odds_ratio_of_liger(nearer, even)[1].item() == float("inf")
    assert log_odds(nearer).isfinite().all()


def test_difference_ligers_odds_ratio_of_two_certain_responses_is_nan_and_ours_is_one():
    certain = torch.zeros(1)
    assert odds_ratio_of_liger(certain, certain)[0].isnan()
    assert odds_ratio_loss(log_odds(certain) - log_odds(certain)).item() == pytest.approx(0.6931, abs=1e-4)


def test_difference_a_certain_response_makes_ligers_gradient_nan_and_leaves_ours_finite():
    # one token each; the head gives the first token of three all of the probability
    hidden, weight = torch.eye(3)[[0, 0], None], (40 * torch.eye(3)).requires_grad_()
    loss, _ = run(liger.LigerFusedLinearORPOLoss(compiled=False), hidden, weight, target=torch.tensor([[0], [1]]))
    (theirs,) = torch.autograd.grad(loss, weight)

    chosen, rejected = (hidden[0, 0] @ weight.T).log_softmax(0)[:2]
    one = torch.ones(1)
    pair = PairLogps(chosen=chosen[None], chosen_tokens=one, rejected=rejected[None], rejected_tokens=one)
    (ours,) = torch.autograd.grad(ORPO(nll_over="response")(pair).loss.sum(), weight)
    assert theirs.isnan().any()
    assert ours.isfinite().all()
