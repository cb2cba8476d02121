"""What is measured at each step, as sums and counts, and the names it is logged under.

Every value is a ratio of two sums over pairs, so that it is the same however the pairs are split over micro-batches,
accumulation steps and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from orpo_lightning.records import ObjectiveOutput, PairLogps

Ratio = tuple[Tensor, Tensor]
"""Numerator and denominator."""


class RatioMetrics(Metric):
    """Named ratios of sums; summed over updates and ranks, divided at the end.

    Example:
        >>> metrics = RatioMetrics()
        >>> metrics.update({"nll": (torch.tensor(6.0), torch.tensor(2.0))})
        >>> metrics.update({"nll": (torch.tensor(2.0), torch.tensor(2.0))})
        >>> metrics.compute()
        {'nll': tensor(2., dtype=torch.float64)}
    """

    full_state_update = False
    sums: Tensor
    names: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(0, 2), dist_reduce_fx="sum")

    def update(self, ratios: Mapping[str, Ratio]) -> None:
        """Add the numerators and denominators of some pairs.

        Raises:
            ValueError: the names are not those of the last update.
        """
        names = tuple(sorted(ratios))
        if self.names and names != self.names:
            differing = ", ".join(sorted(set(names) ^ set(self.names)))
            raise ValueError(
                f"the values to log must have the same names at every step; these come and go: {differing}"
            )
        self.names = names
        # sums over a whole validation set lose digits in fp32; MPS has no fp64
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        added = torch.stack([torch.stack([part.detach().to(dtype) for part in ratios[name]]) for name in names])
        self.sums = added if self.sums.numel() == 0 else self.sums + added

    def compute(self) -> dict[str, Tensor]:
        """The ratios by name; 0 where nothing was counted (a batch of rows of weight 0)."""
        if self.sums.numel() == 0:
            return {}
        numerators, denominators = self.sums.unbind(dim=1)
        values = torch.where(denominators == 0, 0.0, numerators / denominators)
        return dict(zip(self.names, values.unbind(), strict=True))


def weighted_sum(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of the values by their weights; a value of weight 0 is not looked at, whatever it is."""
    return torch.where(weight > 0, values * weight, torch.zeros_like(values)).sum()


def win_rate(margins: Tensor) -> Tensor:
    """1 where the margin is positive, 0 where negative, 0.5 on a tie, ``(B,)``.

    Example:
        >>> win_rate(torch.tensor([0.3, 0.0, -2.0]))
        tensor([1.0000, 0.5000, 0.0000])
    """
    return (margins.sign() + 1) / 2


def preference_ratios(policy: PairLogps, output: ObjectiveOutput, weight: Tensor) -> dict[str, Ratio]:
    """The measures of a micro-batch: those that compare objectives, and the objective's own.

    Args:
        policy: log-probabilities under the policy.
        output: what the objective returned.
        weight: row weights, ``(B,)``.
    """
    per_pair = {"loss": output.loss, "logps/chosen": policy.chosen, "logps_mean/chosen": policy.chosen_mean}
    if policy.has_rejected:
        margins = policy.chosen_mean - policy.rejected_mean
        per_pair |= {
            "pref/accuracies": win_rate(margins),
            "pref/margins": margins,
            "pref/accuracies_sum": win_rate(policy.chosen - policy.rejected),
            "logps/rejected": policy.rejected,
            "logps_mean/rejected": policy.rejected_mean,
        }
    if output.chosen_rewards is not None:
        per_pair["rewards/chosen"] = output.chosen_rewards
    if output.rejected_rewards is not None:
        per_pair["rewards/rejected"] = output.rejected_rewards
    if output.chosen_rewards is not None and output.rejected_rewards is not None:
        per_pair["rewards/margins"] = output.chosen_rewards - output.rejected_rewards
        per_pair["rewards/accuracies"] = win_rate(per_pair["rewards/margins"])

    taken = sorted(set(output.terms) & {*per_pair, "nll_response"})
    if taken:
        raise ValueError(f"an objective logs terms under names that are taken: {', '.join(taken)}")
    per_pair |= output.terms
    for name, values in per_pair.items():
        if values.shape != weight.shape:
            raise ValueError(
                f"an objective returns one value per pair: {name!r} has the shape {tuple(values.shape)}, "
                f"for {len(weight)} pairs"
            )
    weight = weight.to(output.loss.dtype)
    ratios = {name: (weighted_sum(value, weight), weight.sum()) for name, value in per_pair.items()}
    ratios["nll_response"] = (weighted_sum(-policy.chosen, weight), (policy.chosen_tokens * weight).sum())
    return ratios
