# Values and gradients against TRL, on the same numbers and on the logits of the same tiny models. All that is said
# here of TRL was observed with TRL 1.16.0. Its trainers are made without their __init__, which wants a tokenizer, a
# data set and a folder: what runs is the code that they compute their losses with, on batches in their own format.

import math
import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from orpo_lightning.data.mismatch import with_mismatched
from orpo_lightning.functional import dpo_loss, kto_loss, kto_reference_point, log_odds, odds_ratio_loss, simpo_loss
from orpo_lightning.metrics import RatioMetrics, unpaired_ratios
from orpo_lightning.objectives import CPO, DPO, IPO, KTO, ORPO, SFT, HingeDPO, RobustDPO, SimPO
from orpo_lightning.records import PairLogps, UnpairedLogps
from orpo_lightning.testing import make_pairs, make_rows, make_unpaired_rows

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
CPOConfig = pytest.importorskip("trl.experimental.cpo").CPOConfig
CPOTrainer = pytest.importorskip("trl.experimental.cpo").CPOTrainer
ORPOTrainer = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
DPOTrainer = pytest.importorskip("trl").DPOTrainer
KTOTrainer = pytest.importorskip("trl").KTOTrainer
trl_log1mexp = pytest.importorskip("trl.experimental.orpo.orpo_trainer").log1mexp
add_fused_lm_head = pytest.importorskip("trl.trainer.utils").add_fused_lm_head

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ROWS = make_rows(6)
ALONE = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)


# both sides of the comparison


def make_llama(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        # large enough that probabilities are far from uniform
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


def without_init(trainer, **attributes):
    trainer = object.__new__(trainer)
    vars(trainer).update({"accelerator": ALONE, "aux_loss_enabled": False, **attributes})
    return trainer


def sums(model, prompt, response):
    ids = torch.tensor(prompt + response)
    logps = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return logps[-len(response) :].sum(), logps.sum()


def score(model, rows, **global_means):
    chosen, chosen_full, rejected = [], [], []
    for row in rows:
        response, full = sums(model, row.prompt, row.responses[0].ids)
        chosen.append(response)
        chosen_full.append(full)
        rejected.append(sums(model, row.prompt, row.responses[1].ids)[0])
    counts = torch.tensor([[len(row.prompt), *(len(each.ids) for each in row.responses)] for row in rows])
    return PairLogps(
        chosen=torch.stack(chosen),
        chosen_tokens=counts[:, 1],
        rejected=torch.stack(rejected),
        rejected_tokens=counts[:, 2],
        chosen_full=torch.stack(chosen_full),
        chosen_full_tokens=counts[:, 0] + counts[:, 1] - 1,
        **global_means,
    )


def padded(sequences, value):
    return pad_sequence([torch.tensor(each) for each in sequences], batch_first=True, padding_value=value)


def orpo_batch(rows):
    batch = {}
    for i, side in enumerate(("chosen", "rejected")):
        responses = [row.responses[i].ids for row in rows]
        ids = [row.prompt + response for row, response in zip(rows, responses, strict=True)]
        labels = [(-100,) * len(row.prompt) + response for row, response in zip(rows, responses, strict=True)]
        batch[f"{side}_input_ids"] = padded(ids, 0)
        batch[f"{side}_attention_mask"] = padded([[1] * len(each) for each in ids], 0)
        batch[f"{side}_labels"] = padded(labels, -100)
    return batch


def dpo_batch(rows):
    responses = [row.responses[i].ids for i in (0, 1) for row in rows]
    prompts = [row.prompt for row in rows] * 2
    ids = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    mask = [[0] * len(prompt) + [1] * len(response) for prompt, response in zip(prompts, responses, strict=True)]
    return {
        "input_ids": padded(ids, 0),
        "attention_mask": padded([[1] * len(each) for each in ids], 0),
        "completion_mask": padded(mask, 0),
    }


def trl_orpo(model, rows, beta=0.1):
    trainer = without_init(ORPOTrainer, beta=beta, is_encoder_decoder=False, padding_value=0)
    return trainer.get_batch_loss_metrics(model, orpo_batch(rows))


def cpo_settings(**settings):
    # alpha is AlphaPO's
    defaults = {"loss_type": "sigmoid", "beta": 0.1, "alpha": 0.0, "cpo_alpha": 1.0, "label_smoothing": 0.0}
    return SimpleNamespace(**{**defaults, **settings}, accelerator=ALONE)


def trl_cpo(model, rows, **settings):
    trainer = without_init(CPOTrainer, **vars(cpo_settings(**settings)), is_encoder_decoder=False, pad_token_id=0)
    return trainer.get_batch_loss_metrics(model, orpo_batch(rows))


def trl_dpo(model, reference, rows, loss_type, beta=0.1, label_smoothing=0.0):
    trainer = without_init(
        DPOTrainer,
        model=model,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    loss = trainer._compute_loss(model, dpo_batch(rows), return_outputs=False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def kto_batch(rows):
    batch = {"label": torch.tensor([row.responses[0].label == 1 for row in rows])}
    for i, prefix in enumerate(("", "KL_")):
        responses = [row.responses[i].ids for row in rows]
        ids = [row.prompt + response for row, response in zip(rows, responses, strict=True)]
        mask = [[0] * len(row.prompt) + [1] * len(response) for row, response in zip(rows, responses, strict=True)]
        batch[f"{prefix}input_ids"] = padded(ids, 0)
        batch[f"{prefix}attention_mask"] = padded([[1] * len(each) for each in ids], 0)
        batch[f"{prefix}completion_mask"] = padded(mask, 0)
    return batch


def trl_kto(model, reference, batch, **settings):
    trainer = without_init(
        KTOTrainer,
        model=model,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=reference is None,
        loss_type="kto",
        calculate_KL=True,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **{"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0, **settings},
    )
    loss = trainer._compute_loss(model, batch, return_outputs=False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def score_unpaired(model, rows):
    own, mismatched = (torch.stack([sums(model, row.prompt, row.responses[i].ids)[0] for row in rows]) for i in (0, 1))
    return UnpairedLogps(
        logps=own,
        tokens=torch.tensor([len(row.responses[0].ids) for row in rows]),
        desirable=torch.tensor([row.responses[0].label == 1 for row in rows]),
        weight=torch.ones(len(rows)),
        mismatched=mismatched,
    )


def gradient(model, loss):
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


def assert_same(model, ours, theirs):
    # the robust loss is a difference of losses, and may come near 0
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)
    ours, theirs = gradient(model, ours), gradient(model, theirs)
    assert theirs.norm() > 1e-3
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def ours(objective, model, rows, reference=None):
    with torch.no_grad():
        reference_logps = score(reference, rows) if reference is not None else None
    return objective(score(model, rows), reference_logps)


@pytest.fixture(scope="module")
def policy():
    model = make_llama(seed=0)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


@pytest.fixture(scope="module")
def reference():
    model = make_llama(seed=1).requires_grad_(False)
    add_fused_lm_head(model)
    return model


# formulas, on random numbers


def leaves(*values):
    return [value.detach().float().clone().requires_grad_() for value in values]


def assert_same_formula(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours_by, theirs_by = (torch.autograd.grad(value.sum(), inputs, retain_graph=True) for value in (ours, theirs))
    assert all(each.any() for each in theirs_by)
    torch.testing.assert_close(ours_by, theirs_by, rtol=1e-5, atol=1e-6)


def test_odds_ratio_formula():
    logps = make_pairs(pairs=50)
    chosen, rejected = means = leaves(logps.chosen_mean, logps.rejected_mean)
    trainer = SimpleNamespace(beta=0.3, accelerator=ALONE)
    losses, chosen_rewards, _, _, log_odds_chosen = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)
    ratio = log_odds(chosen) - log_odds(rejected)
    assert_same_formula(0.3 * odds_ratio_loss(ratio), -losses, means)
    assert log_odds_chosen.item() == pytest.approx(ratio.mean().item(), rel=1e-5)
    torch.testing.assert_close(chosen_rewards, 0.3 * chosen.detach())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_conservative_sigmoid_formula(label_smoothing):
    logps = make_pairs(pairs=50)
    chosen, rejected = sums_ = leaves(logps.chosen, logps.rejected)
    trainer = cpo_settings(loss_type="sigmoid", beta=0.1, label_smoothing=label_smoothing)
    losses, _, _ = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    assert_same_formula(dpo_loss(chosen - rejected, 0.1, label_smoothing), losses, sums_)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 0.3), (10.0, 5.0)])
def test_simpo_formula_with_gamma_on_the_same_scale(beta, gamma):
    logps = make_pairs(pairs=50)
    chosen, rejected = means = leaves(logps.chosen_mean, logps.rejected_mean)
    trainer = cpo_settings(loss_type="simpo", beta=beta, simpo_gamma=gamma)
    losses, _, _ = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    assert_same_formula(simpo_loss(chosen - rejected, beta, gamma), losses, means)


class GivenLogps(torch.nn.Module):
    """A model with the given log-probabilities: by the first token those of the rows or of the mismatched responses."""

    def __init__(self, own, mismatched):
        super().__init__()
        self.given = {0: own, 1: mismatched}

    def forward(self, input_ids, **_):
        logps = self.given[input_ids[0, 0].item()][:, None]
        return SimpleNamespace(log_probs=logps, entropy=torch.zeros_like(logps), mean_logits=torch.zeros_like(logps))


@pytest.mark.parametrize("shift", [-3.0, 3.0], ids=["reference point 0", "reference point above 0"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
def test_kto_formula(shift, weights):
    torch.manual_seed(0)
    own, mismatched = inputs = leaves(-8 * torch.rand(50), -8 * torch.rand(50) + shift)
    reference_own, reference_mismatched = -8 * torch.rand(50), -8 * torch.rand(50)
    desirable = torch.rand(50) < 0.6
    batch = {"label": desirable, "ref_logps": reference_own, "ref_KL_logps": reference_mismatched}
    for prefix, first in (("", 0), ("KL_", 1)):
        batch[f"{prefix}input_ids"] = torch.tensor([[first, 5]] * 50)
        batch[f"{prefix}attention_mask"] = torch.ones(50, 2, dtype=torch.long)
        batch[f"{prefix}completion_mask"] = torch.tensor([[0, 1]] * 50)
    names = dict(zip(("desirable_weight", "undesirable_weight"), weights, strict=True))
    theirs, metrics = trl_kto(GivenLogps(own, mismatched), None, batch, beta=0.3, **names)
    z = kto_reference_point(mismatched - reference_mismatched)
    found = kto_loss(own - reference_own, z, desirable, 0.3, *weights).mean()
    assert z.item() == pytest.approx(metrics["kl"], rel=1e-5)
    assert (z > 0) == (shift > 0)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-7)
    ours_by, theirs_by = (torch.autograd.grad(each, inputs, allow_unused=True) for each in (found, theirs))
    assert theirs_by[0].all()
    torch.testing.assert_close(ours_by[0], theirs_by[0], rtol=1e-5, atol=1e-8)
    assert ours_by[1] is theirs_by[1] is None


# trainers, on the logits of one model


@pytest.mark.parametrize("lambda_", [0.1, 1.0])
def test_orpo_trainer(policy, lambda_):
    loss, _ = trl_orpo(policy, ROWS, beta=lambda_)
    assert_same(policy, ours(ORPO(lambda_=lambda_), policy, ROWS).loss.mean(), loss)


def test_orpo_trainer_logs_our_terms_under_the_names_we_gave_them(policy):
    _, metrics = trl_orpo(policy, ROWS, beta=0.3)
    output = ours(ORPO(lambda_=0.3), policy, ROWS)
    expected = {
        "nll_loss": output.terms["nll_loss"],
        "log_odds_chosen": output.terms["log_odds_chosen"],
        "rewards/chosen": output.chosen_rewards,
        "rewards/rejected": output.rejected_rewards,
    }
    expected = {name: value.mean().item() for name, value in expected.items()}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("alpha", "label_smoothing"), [(1.0, 0.0), (0.3, 0.2), (0.0, 0.1)])
def test_cpo_trainer(policy, alpha, label_smoothing):
    loss, _ = trl_cpo(policy, ROWS, beta=0.1, cpo_alpha=alpha, label_smoothing=label_smoothing)
    objective = CPO(beta=0.1, alpha=alpha, label_smoothing=label_smoothing)
    assert_same(policy, ours(objective, policy, ROWS).loss.mean(), loss)


def test_simpo_trainer_with_its_likelihood_switched_off(policy):
    loss, _ = trl_cpo(policy, ROWS, loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0)
    assert_same(policy, ours(SimPO(beta=2.0, gamma=1.0), policy, ROWS).loss.mean(), loss)


@pytest.mark.parametrize(
    ("loss_type", "beta", "objective"),
    [
        ("sigmoid", 0.1, DPO(beta=0.1)),
        ("sigmoid_norm", 5.0, DPO(beta=5.0, length_normalized=True)),
        ("hinge", 0.1, HingeDPO(beta=0.1)),
        ("ipo", 0.1, IPO(tau=0.1)),
        ("ipo", 1.0, IPO(tau=1.0)),
        ("sft", 0.1, SFT(nll_over="response")),
    ],
    ids=repr,
)
def test_dpo_trainer(policy, reference, loss_type, beta, objective):
    loss, _ = trl_dpo(policy, reference, ROWS, loss_type, beta)
    assert_same(policy, ours(objective, policy, ROWS, reference).loss.mean(), loss)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
def test_dpo_trainer_with_the_robust_loss(policy, reference, label_smoothing):
    loss, _ = trl_dpo(policy, reference, ROWS, "robust", 0.1, label_smoothing)
    objective = RobustDPO(beta=0.1, label_smoothing=label_smoothing)
    assert_same(policy, ours(objective, policy, ROWS, reference).loss.mean(), loss)


def test_dpo_trainer_logs_our_rewards(policy, reference):
    _, metrics = trl_dpo(policy, reference, ROWS, "sigmoid", beta=0.1)
    output = ours(DPO(beta=0.1), policy, ROWS, reference)
    assert metrics["rewards/chosen"] == pytest.approx(output.chosen_rewards.mean().item(), rel=1e-5)
    assert metrics["rewards/rejected"] == pytest.approx(output.rejected_rewards.mean().item(), rel=1e-5)


UNPAIRED = with_mismatched(make_unpaired_rows(6), "train")
MEASURES_OF_KTO = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


@pytest.mark.parametrize("settings", [{}, {"beta": 0.5}, {"desirable_weight": 1.5, "undesirable_weight": 0.5}], ids=str)
def test_kto_trainer(policy, reference, settings):
    loss, metrics = trl_kto(policy, reference, kto_batch(UNPAIRED), **settings)
    with torch.no_grad():
        reference_logps = score_unpaired(reference, UNPAIRED)
    logps = score_unpaired(policy, UNPAIRED)
    output = KTO(**settings)(logps, reference_logps)
    assert_same(policy, output.loss.mean(), loss)
    measured = RatioMetrics()
    measured.update(unpaired_ratios(logps, output, logps.weight))
    expected = {name: metrics[name] for name in ("kl", *MEASURES_OF_KTO)}
    found = {name: value.item() for name, value in measured.compute().items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)


# known differences


def test_difference_trls_kto_drops_the_measures_of_a_kind_that_a_batch_has_none_of_and_ours_keeps_the_names(
    policy, reference
):
    desirable = [row for row in UNPAIRED if row.responses[0].label == 1]
    _, metrics = trl_kto(policy, reference, kto_batch(desirable))
    assert not {"rewards/rejected", "rewards/margins", "logps/rejected"} & set(metrics)
    with torch.no_grad():
        logps = score_unpaired(policy, desirable)
        output = KTO()(logps, score_unpaired(reference, desirable))
    assert set(MEASURES_OF_KTO) < set(unpaired_ratios(logps, output, logps.weight))


def test_difference_the_log_odds_ratio_that_trl_logs_is_minus_our_or_loss(policy):
    _, metrics = trl_orpo(policy, ROWS)
    terms = ours(ORPO(), policy, ROWS).terms
    assert metrics["log_odds_ratio"] == pytest.approx(-terms["or_loss"].mean().item(), rel=1e-5)
    assert metrics["log_odds_ratio"] != pytest.approx(terms["log_odds_chosen"].mean().item(), rel=0.1)


@pytest.mark.parametrize(
    ("trl", "objective", "full"),
    [
        (lambda *run: trl_orpo(*run)[0], ORPO(), True),
        (lambda *run: trl_cpo(*run)[0], CPO(), False),
    ],
    ids=["orpo", "cpo"],
)
def test_difference_trls_likelihood_depends_on_the_split_of_the_batch_and_ours_does_not(policy, trl, objective, full):
    with torch.no_grad():
        theirs = [trl(policy, rows).item() for rows in (ROWS, ROWS[:3], ROWS[3:])]
        whole = score(policy, ROWS)
        given = {"tokens_per_pair": whole.mean_tokens(False), "full_tokens_per_pair": whole.mean_tokens(True)}
        halves = [objective(score(policy, rows, **given)).loss.mean() for rows in (ROWS[:3], ROWS[3:])]
    assert sum(halves).item() / 2 == pytest.approx(objective(whole).loss.mean().item(), rel=1e-6)
    assert (theirs[1] + theirs[2]) / 2 != pytest.approx(theirs[0], rel=1e-3)
    assert whole.chosen_full_tokens[:3].sum() != whole.chosen_full_tokens[3:].sum()


def test_difference_trls_dpo_ignores_label_smoothing_and_ours_is_conservative(policy, reference):
    plain, smoothed = (trl_dpo(policy, reference, ROWS, "sigmoid", 0.1, e)[0].item() for e in (0.0, 0.2))
    assert smoothed == plain
    conservative = ours(DPO(beta=0.1, label_smoothing=0.2), policy, ROWS, reference).loss.mean().item()
    assert conservative != pytest.approx(plain, rel=1e-2)


def test_difference_trls_ipo_is_per_token_only_and_ours_can_be_summed_as_in_the_paper(policy, reference):
    loss, _ = trl_dpo(policy, reference, ROWS, "ipo", 0.1)
    summed = ours(IPO(tau=0.1, length_normalized=False), policy, ROWS, reference).loss.mean().item()
    assert summed != pytest.approx(loss.item(), rel=0.1)


@pytest.mark.parametrize(
    ("loss_type", "objective"), [("ipo", IPO(tau=0.1)), ("sigmoid_norm", DPO(beta=0.1, length_normalized=True))]
)
def test_difference_trls_rewards_are_summed_where_its_loss_is_per_token_and_ours_follow_the_loss(
    policy, reference, loss_type, objective
):
    _, metrics = trl_dpo(policy, reference, ROWS, loss_type, 0.1)
    found = ours(objective, policy, ROWS, reference).chosen_rewards
    tokens = torch.tensor([len(row.responses[0].ids) for row in ROWS])
    assert metrics["rewards/chosen"] == pytest.approx((found * tokens).mean().item(), rel=1e-5)
    assert metrics["rewards/chosen"] != pytest.approx(found.mean().item(), rel=0.1)


def test_difference_trls_simpo_adds_a_likelihood_by_default_and_ours_has_none(policy):
    assert CPOConfig.cpo_alpha == 1.0
    loss, metrics = trl_cpo(policy, ROWS, loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=CPOConfig.cpo_alpha)
    simpo = ours(SimPO(beta=2.0, gamma=1.0), policy, ROWS).loss.mean().item()
    assert loss.item() == pytest.approx(simpo + metrics["nll_loss"], rel=1e-5)


def test_difference_trls_dpo_sft_is_over_the_response_and_our_sft_over_the_prompt_too_by_default(policy, reference):
    loss, _ = trl_dpo(policy, reference, ROWS, "sft")
    assert loss.item() != pytest.approx(ours(SFT(), policy, ROWS).loss.mean().item(), rel=1e-2)


@pytest.mark.parametrize(
    ("dtype", "x"), [(torch.float32, 0.0), (torch.float32, -1e-8), (torch.float64, 0.0), (torch.float64, -1e-17)]
)
def test_difference_trls_log1mexp_has_a_nan_gradient_where_exp_rounds_to_one_and_our_log_odds_do_not(dtype, x):
    theirs, ours_ = (torch.tensor([x], dtype=dtype, requires_grad=True) for _ in range(2))
    trl_log1mexp(theirs).sum().backward()
    log_odds(ours_).sum().backward()
    assert theirs.grad.isnan().all()
    assert ours_.grad.isfinite().all()


def test_difference_a_certain_response_makes_trls_gradient_nan_and_leaves_ours_finite():
    def by_the_mean(loss):
        chosen = torch.tensor([-1e-8, -1.0], requires_grad=True)
        loss(chosen, torch.tensor([-2.0, -2.0])).sum().backward()
        return chosen.grad

    trainer = SimpleNamespace(beta=1.0, accelerator=ALONE)
    theirs = by_the_mean(lambda *means: -ORPOTrainer.odds_ratio_loss(trainer, *means)[0])
    found = by_the_mean(lambda chosen, rejected: odds_ratio_loss(log_odds(chosen) - log_odds(rejected)))
    assert theirs[0].isnan()
    assert found.isfinite().all()
    assert found[1].item() == pytest.approx(theirs[1].item(), rel=1e-6)


def test_difference_trls_odds_ratio_of_two_certain_responses_is_nan_and_ours_is_one():
    certain = torch.zeros(1)
    trainer = SimpleNamespace(beta=1.0, accelerator=ALONE)
    assert ORPOTrainer.odds_ratio_loss(trainer, certain, certain)[0].isnan().all()
    assert odds_ratio_loss(log_odds(certain) - log_odds(certain)).item() == pytest.approx(math.log(2))
