"""Simple preference optimization."""

from __future__ import annotations

from orpo_lightning.functional import simpo_loss
from orpo_lightning.objectives.base import Objective, check_range
from orpo_lightning.records import ObjectiveOutput, PairLogps


class SimPO(Objective):
    """Simple preference optimization: ``-log sigmoid(beta (A_w - A_l) - gamma)`` (eq. 6 of arXiv:2405.14734).

    ``A`` = mean log-probability of a response. Rewards are ``beta A``. No reference model.

    Args:
        beta: scale of the reward, per nat/token (the paper searches 2 to 2.5 and, for later models, up to 10).
        gamma: target margin of the rewards; the authors advise gamma / beta of 0.3 to 0.8.

    Example:
        >>> SimPO(beta=2.5)
        SimPO(beta=2.5, gamma=1.0)
    """

    formula = "-log sigmoid(beta (A_w - A_l) - gamma)"
    citation = "arXiv:2405.14734, eq. 6"
    strength_name = "beta"

    def __init__(self, beta: float = 2.0, gamma: float = 1.0) -> None:
        check_range(self, "beta", beta, 0, low_allowed=False)
        check_range(self, "gamma", gamma, 0)
        self.beta = beta
        self.gamma = gamma

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        chosen, rejected = policy.chosen_mean, policy.rejected_mean
        loss = simpo_loss(chosen - rejected, self.beta, self.gamma)
        return ObjectiveOutput(loss, self.beta * chosen.detach(), self.beta * rejected.detach())
