"""Odds ratio preference optimization."""

from __future__ import annotations

import torch
from torch import Tensor

from orpo_lightning.functional import MAX_MEAN_LOGP, log_odds, odds_ratio_loss
from orpo_lightning.objectives.base import check_range
from orpo_lightning.objectives.nll import NLLMean, NLLObjective, NLLTokens
from orpo_lightning.records import ObjectiveOutput, PairLogps


class ORPO(NLLObjective):
    """Odds ratio preference optimization: ``L_SFT + lambda L_OR`` (eq. 6 of arXiv:2403.07691), no reference model.

    ``L_OR = -log sigmoid(log odds(y_w) - log odds(y_l))`` (eq. 7), odds of the mean log-probability (eq. 3, 4).
    The gradient of L_OR is ``-delta h``, ``h = grad log P_w / (1 - P_w) - grad log P_l / (1 - P_l)``: the paper's
    eq. 8 has the other sign, because it differentiates ``log sigmoid`` without the minus of eq. 7.

    Rewards are ``lambda`` times the mean log-probability (TRL's convention). Logged terms, per pair: ``nll_loss``;
    ``or_loss`` (L_OR); ``log_odds_chosen`` (the log odds ratio); ``delta = sigmoid(-log OR)``;
    ``grad_coef/chosen = delta / (1 - P_w)`` and ``grad_coef/rejected = delta / (1 - P_l)``, the sizes of the
    derivatives of L_OR by the two mean log-probabilities.

    Args:
        lambda_: weight of the odds ratio term; ``alpha`` in the authors' code, ``beta`` in TRL. 0 is SFT.
        nll_over: tokens of the likelihood term: ``prompt_and_response`` (eq. 2; the authors' code; TRL) or
            ``response`` (LLaMA-Factory; the authors' code with --disable_prompt_loss).
        nll_mean: ``tokens``: mean over all tokens of the global batch (the authors' code and TRL, there per
            micro-batch), or ``sequences``: mean over pairs of each pair's mean (eq. 2 as written; LLaMA-Factory).

    Example:
        >>> pairs = PairLogps(
        ...     chosen=torch.tensor([-6.0]), chosen_tokens=torch.tensor([3]),
        ...     rejected=torch.tensor([-6.0]), rejected_tokens=torch.tensor([3]),
        ... )
        >>> output = ORPO(lambda_=0.1, nll_over="response")(pairs)
        >>> output.loss, output.terms["or_loss"]
        (tensor([2.0693]), tensor([0.6931]))
    """

    formula = "-log P(x, y_w) - lambda log sigmoid(log odds(y_w|x) - log odds(y_l|x))"
    citation = "arXiv:2403.07691, eq. 6"
    strength_name = "lambda_"

    def __init__(
        self,
        lambda_: float = 0.1,
        nll_over: NLLTokens = "prompt_and_response",
        nll_mean: NLLMean = "tokens",
    ) -> None:
        check_range(self, "lambda_", lambda_, 0)
        self.lambda_ = lambda_
        self.nll_over = nll_over
        self.nll_mean = nll_mean
        self._check_nll()

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        chosen, rejected = policy.chosen_mean, policy.rejected_mean
        nll = self.nll(policy)
        log_odds_ratio = log_odds(chosen) - log_odds(rejected)
        or_loss = odds_ratio_loss(log_odds_ratio)
        with torch.no_grad():
            delta = torch.sigmoid(-log_odds_ratio)
            terms = {
                "nll_loss": nll.detach(),
                "or_loss": or_loss.detach(),
                "log_odds_chosen": log_odds_ratio.detach(),
                "delta": delta,
                "grad_coef/chosen": delta * _log_odds_slope(chosen),
                "grad_coef/rejected": delta * _log_odds_slope(rejected),
            }
        loss = nll + self.lambda_ * or_loss
        return ObjectiveOutput(loss, self.lambda_ * chosen.detach(), self.lambda_ * rejected.detach(), terms)


def _log_odds_slope(mean_logps: Tensor) -> Tensor:
    """``1 / (1 - P)``; 0 where `log_odds` holds P back from 1."""
    slope = -1 / torch.expm1(mean_logps.clamp(max=MAX_MEAN_LOGP))
    return torch.where(mean_logps > MAX_MEAN_LOGP, 0.0, slope)
