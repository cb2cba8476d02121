"""Direct preference optimization, its robust form and its hinge form."""

from __future__ import annotations

from torch import Tensor

from orpo_lightning.functional import dpo_loss, hinge_loss, robust_dpo_loss
from orpo_lightning.objectives.base import check_range
from orpo_lightning.objectives.log_ratio import LogRatioObjective


class DPO(LogRatioObjective):
    """Direct preference optimization: ``-log sigmoid(beta (h_w - h_l))`` (eq. 7 of arXiv:2305.18290).

    ``h = log pi(y|x) - log pi_ref(y|x)``, summed over the response. Rewards are ``beta h``.

    Args:
        beta: strength of the constraint to the reference, per nat (per nat/token if `length_normalized`).
        label_smoothing: probability that a label is flipped, in [0, 0.5): conservative DPO (Mitchell 2023).
        length_normalized: divide each h by the length of its response (Tulu 3, arXiv:2411.15124; TRL's
            ``sigmoid_norm``); beta is then of the order of 5.

    Example:
        >>> import torch
        >>> from orpo_lightning import PairLogps
        >>> pairs = PairLogps(
        ...     chosen=torch.tensor([-6.0]), chosen_tokens=torch.tensor([3]),
        ...     rejected=torch.tensor([-8.0]), rejected_tokens=torch.tensor([4]),
        ... )
        >>> DPO(beta=0.1)(pairs, reference=pairs).loss  # policy = reference: ln 2
        tensor([0.6931])
    """

    formula = "-log sigmoid(beta (h_w - h_l))"
    citation = "arXiv:2305.18290, eq. 7"
    strength_name = "beta"

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0, length_normalized: bool = False) -> None:
        check_range(self, "beta", beta, 0, low_allowed=False)
        check_range(self, "label_smoothing", label_smoothing, 0, 0.5)
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.length_normalized = length_normalized

    def pair_loss(self, margin: Tensor) -> Tensor:
        return dpo_loss(margin, self.beta, self.label_smoothing)


class RobustDPO(DPO):
    """DPO made unbiased under flipped labels (arXiv:2403.00409). Rewards are ``beta h``. The loss may be negative.

    Args:
        beta: as in :class:`DPO`.
        label_smoothing: probability that a label is flipped, in [0, 0.5); 0 is DPO.
        length_normalized: as in :class:`DPO`.

    Example:
        >>> RobustDPO(label_smoothing=0.2)
        RobustDPO(beta=0.1, label_smoothing=0.2, length_normalized=False)
    """

    formula = "(-(1-e) log sigmoid(beta (h_w - h_l)) + e log sigmoid(-beta (h_w - h_l))) / (1-2e)"
    citation = "arXiv:2403.00409"

    def pair_loss(self, margin: Tensor) -> Tensor:
        return robust_dpo_loss(margin, self.beta, self.label_smoothing)


class HingeDPO(LogRatioObjective):
    """Hinge form of DPO: ``max(0, 1 - beta (h_w - h_l))`` (hinge-norm, arXiv:2309.06657). Rewards are ``beta h``.

    Args:
        beta: inverse of the margin at which the loss vanishes.
        length_normalized: as in :class:`DPO`.

    Example:
        >>> HingeDPO(beta=0.5)
        HingeDPO(beta=0.5, length_normalized=False)
    """

    formula = "max(0, 1 - beta (h_w - h_l))"
    citation = "arXiv:2309.06657"
    strength_name = "beta"

    def __init__(self, beta: float = 0.1, length_normalized: bool = False) -> None:
        check_range(self, "beta", beta, 0, low_allowed=False)
        self.beta = beta
        self.length_normalized = length_normalized

    def pair_loss(self, margin: Tensor) -> Tensor:
        return hinge_loss(margin, self.beta)
