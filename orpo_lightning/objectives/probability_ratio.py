"""The ablation of ORPO with a ratio of probabilities in the place of that of odds."""

from __future__ import annotations

from orpo_lightning.functional import simpo_loss
from orpo_lightning.objectives.base import check_range
from orpo_lightning.objectives.nll import NLLMean, NLLObjective, NLLTokens
from orpo_lightning.records import ObjectiveOutput, PairLogps


class ProbabilityRatio(NLLObjective):
    """ORPO with probabilities instead of odds: ``L_SFT + lambda L_PR`` (appendix B of arXiv:2403.07691).

    ``L_PR = -log sigmoid(beta (log P(y_w) - log P(y_l)))`` (eq. 16), P of the mean log-probability: SimPO's loss
    without a target. For the same margin it asks for more extreme probabilities than the odds do, which is why the
    paper does not take it; it is here to compare. Where both P are small the two losses agree, at beta 1.

    Rewards are ``beta`` times the mean log-probability. Logged terms, per pair: ``nll_loss``; ``pr_loss`` (L_PR).

    Args:
        lambda_: weight of the ratio term. 0 is SFT.
        beta: scale of the log ratio, per nat/token; the appendix looks at 0.2 and 1.
        nll_over: the tokens of the likelihood, as in :class:`ORPO`.
        nll_mean: how the likelihood is averaged, as in :class:`ORPO`.

    Example:
        >>> import torch
        >>> pairs = PairLogps(
        ...     chosen=torch.tensor([-6.0]), chosen_tokens=torch.tensor([3]),
        ...     rejected=torch.tensor([-6.0]), rejected_tokens=torch.tensor([3]),
        ... )
        >>> output = ProbabilityRatio(lambda_=0.1, nll_over="response")(pairs)
        >>> output.loss, output.terms["pr_loss"]
        (tensor([2.0693]), tensor([0.6931]))
    """

    formula = "-log P(x, y_w) - lambda log sigmoid(beta (A_w - A_l))"
    citation = "arXiv:2403.07691, app. B"
    strength_name = "lambda_"

    def __init__(
        self,
        lambda_: float = 0.1,
        beta: float = 1.0,
        nll_over: NLLTokens = "prompt_and_response",
        nll_mean: NLLMean = "tokens",
    ) -> None:
        check_range(self, "lambda_", lambda_, 0)
        check_range(self, "beta", beta, 0, low_allowed=False)
        self.lambda_ = lambda_
        self.beta = beta
        self.nll_over = nll_over
        self.nll_mean = nll_mean
        self._check_nll()

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        chosen, rejected = policy.chosen_mean, policy.rejected_mean
        nll, pr_loss = self.nll(policy), simpo_loss(chosen - rejected, self.beta, gamma=0.0)
        return ObjectiveOutput(
            nll + self.lambda_ * pr_loss,
            self.beta * chosen.detach(),
            self.beta * rejected.detach(),
            {"nll_loss": nll.detach(), "pr_loss": pr_loss.detach()},
        )
