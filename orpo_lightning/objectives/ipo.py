"""Identity preference optimization."""

from __future__ import annotations

from torch import Tensor

from orpo_lightning.functional import ipo_loss
from orpo_lightning.objectives.base import check_range
from orpo_lightning.objectives.log_ratio import LogRatioObjective


class IPO(LogRatioObjective):
    """Identity preference optimization: ``(h_w - h_l - 1 / (2 tau))^2`` (eq. 17 of arXiv:2310.12036).

    Rewards are ``tau h``.

    Args:
        tau: strength of the regularisation; the margin is driven to ``1 / (2 tau)``.
        length_normalized: take each h per token (default: what the authors confirmed to TRL as their practice), or,
            if False, summed as the paper writes it.

    Example:
        >>> IPO(tau=0.5)
        IPO(tau=0.5, length_normalized=True)
    """

    formula = "(h_w - h_l - 1 / (2 tau))^2"
    citation = "arXiv:2310.12036, eq. 17"
    strength_name = "tau"

    def __init__(self, tau: float = 0.1, length_normalized: bool = True) -> None:
        check_range(self, "tau", tau, 0, low_allowed=False)
        self.tau = tau
        self.length_normalized = length_normalized

    def pair_loss(self, margin: Tensor) -> Tensor:
        return ipo_loss(margin, self.tau)
