"""Kahneman-Tversky optimization."""

from __future__ import annotations

from orpo_lightning.functional import kto_loss, kto_reference_point
from orpo_lightning.objectives.base import check_range
from orpo_lightning.objectives.unpaired import UnpairedObjective
from orpo_lightning.records import ObjectiveOutput, UnpairedLogps


class KTO(UnpairedObjective):
    """Kahneman-Tversky optimization, of single responses that are desirable or not (arXiv:2402.01306).

    ``l_D (1 - sigmoid(beta (h - z)))`` of a desirable and ``l_U (1 - sigmoid(beta (z - h)))`` of an undesirable
    response, ``h = log pi(y|x) - log pi_ref(y|x)``, summed over the response. The reference point z is the mean of h
    over prompts followed by responses to other prompts, at least 0, over the global batch, without gradient; it is
    logged as ``kl``. Rewards are ``beta h``. Of a pair, the chosen response is desirable, the rejected one is not.
    In validation z is that of each micro-batch of up to ``data.global_batch_size`` rows, and ``kl`` their mean.

    Args:
        beta: how fast the value of a gain or loss saturates, per nat.
        desirable_weight: l_D. Where the two kinds are not equally many, TRL's advice is to choose the weights so that
            l_D times the number of desirable responses is 1 to 4/3 times l_U times that of the undesirable ones.
        undesirable_weight: l_U.

    Example:
        >>> import torch
        >>> responses = UnpairedLogps(
        ...     logps=torch.tensor([-6.0, -8.0]), tokens=torch.tensor([3, 4]), desirable=torch.tensor([True, False]),
        ...     weight=torch.ones(2), mismatched=torch.tensor([-9.0, -9.0]),
        ... )
        >>> KTO(undesirable_weight=1.5)(responses, reference=responses).loss  # policy = reference: half the weight
        tensor([0.5000, 0.7500])
    """

    formula = "l_D (1 - sigmoid(beta (h - z))) desirable; l_U (1 - sigmoid(beta (z - h))) undesirable"
    citation = "arXiv:2402.01306"
    strength_name = "beta"
    needs_reference = True
    needs_mismatched = True
    couples_pairs = True

    def __init__(self, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> None:
        check_range(self, "beta", beta, 0, low_allowed=False)
        check_range(self, "desirable_weight", desirable_weight, 0)
        check_range(self, "undesirable_weight", undesirable_weight, 0)
        self.beta = beta
        self.desirable_weight = desirable_weight
        self.undesirable_weight = undesirable_weight

    def __call__(self, policy: UnpairedLogps, reference: UnpairedLogps | None = None) -> ObjectiveOutput:
        assert reference is not None
        log_ratio = policy.logps - reference.logps
        z = kto_reference_point(policy.mismatched - reference.mismatched, policy.weight)
        loss = kto_loss(log_ratio, z, policy.desirable, self.beta, self.desirable_weight, self.undesirable_weight)
        return ObjectiveOutput(loss, terms={"kl": z.expand_as(loss)}, rewards=self.beta * log_ratio.detach())
