"""Contrastive preference optimization."""

from __future__ import annotations

from orpo_lightning.functional import dpo_loss
from orpo_lightning.objectives.base import check_range
from orpo_lightning.objectives.nll import NLLMean, NLLObjective, NLLTokens
from orpo_lightning.records import ObjectiveOutput, PairLogps


class CPO(NLLObjective):
    """Contrastive preference optimization: ``-log sigmoid(beta (S_w - S_l)) + alpha NLL(y_w)``.

    Eq. 3 of arXiv:2401.08417; ``S`` = summed log-probability of a response. Rewards are ``beta S``. No reference model.

    Args:
        beta: scale of the reward, per nat.
        alpha: weight of the likelihood of the chosen response (TRL's ``cpo_alpha``; 1 in the paper).
        label_smoothing: probability that a label is flipped, in [0, 0.5).
        nll_over: tokens of the likelihood: ``response`` (the paper's ``log pi(y_w|x)``) or ``prompt_and_response``.
        nll_mean: ``tokens`` (TRL, there per micro-batch) or ``sequences``, as in :class:`ORPO`.

    Example:
        >>> CPO(beta=0.2).needs_reference
        False
    """

    formula = "-log sigmoid(beta (S_w - S_l)) - alpha log P(y_w|x)"
    citation = "arXiv:2401.08417, eq. 3"
    strength_name = "beta"

    def __init__(
        self,
        beta: float = 0.1,
        alpha: float = 1.0,
        label_smoothing: float = 0.0,
        nll_over: NLLTokens = "response",
        nll_mean: NLLMean = "tokens",
    ) -> None:
        check_range(self, "beta", beta, 0, low_allowed=False)
        check_range(self, "alpha", alpha, 0)
        check_range(self, "label_smoothing", label_smoothing, 0, 0.5)
        self.beta = beta
        self.alpha = alpha
        self.label_smoothing = label_smoothing
        self.nll_over = nll_over
        self.nll_mean = nll_mean
        self._check_nll()

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        preference = dpo_loss(policy.chosen - policy.rejected, self.beta, self.label_smoothing)
        nll = self.nll(policy)
        return ObjectiveOutput(
            preference + self.alpha * nll,
            self.beta * policy.chosen.detach(),
            self.beta * policy.rejected.detach(),
            {"nll_loss": nll.detach(), "preference_loss": preference.detach()},
        )
