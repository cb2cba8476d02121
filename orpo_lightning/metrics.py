"""What is measured at each step, as sums and counts, and the names it is logged under.

Every value is a ratio of two sums over pairs or responses, or the difference of two such ratios, so that it is the same
however they are split over micro-batches, accumulation steps and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from orpo_lightning.records import ObjectiveOutput, PairLogps, UnpairedLogps

Ratio = tuple[Tensor, Tensor]
"""Numerator and denominator."""


class Difference(NamedTuple):
    """A ratio less another one: what two kinds of responses differ by, each averaged over its own kind."""

    ratio: Ratio
    subtracted: Ratio


class RatioMetrics(Metric):
    """Named ratios of sums, and differences of these; summed over updates and ranks, divided at the end.

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
        self.add_state("sums", torch.zeros(0, 4), dist_reduce_fx="sum")

    def update(self, ratios: Mapping[str, Ratio | Difference]) -> None:
        """Add the numerators and denominators of some pairs or responses.

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
        added = torch.stack([torch.stack([part.detach().to(dtype) for part in _parts(ratios[name])]) for name in names])
        self.sums = added if self.sums.numel() == 0 else self.sums + added

    def compute(self) -> dict[str, Tensor]:
        """The values by name; 0 where nothing was counted (rows of weight 0 only), or on one side of a difference."""
        if self.sums.numel() == 0:
            return {}
        numerators, denominators, subtracted, divisors = self.sums.unbind(dim=1)
        nothing = (denominators == 0) | (divisors == 0)
        values = torch.where(nothing, 0.0, numerators / denominators - subtracted / divisors)
        return dict(zip(self.names, values.unbind(), strict=True))


class SplitMetrics(RatioMetrics):
    """The measures of a whole split; but for the loss, what was counted over nothing is not one and is left out.

    Which measures these are is a function of the split, so that they are the same on all ranks and every time.

    Example:
        >>> metrics = SplitMetrics()
        >>> nothing = torch.tensor(0.0)
        >>> metrics.update({"loss": (nothing, nothing), "nll": (nothing, nothing)})
        >>> metrics.compute()
        {'loss': tensor(0., dtype=torch.float64)}
    """

    def compute(self) -> dict[str, Tensor]:
        """The values by name; those of rows of weight 0 only, or with a side of a difference that is, are left out."""
        values = super().compute()
        if not values:
            return {}
        counted = (self.sums[:, (1, 3)] != 0).all(dim=1).tolist()
        return {
            name: value
            for (name, value), was_counted in zip(values.items(), counted, strict=True)
            if was_counted or name == "loss"
        }


def _parts(ratio: Ratio | Difference) -> tuple[Tensor, ...]:
    if isinstance(ratio, Difference):
        return (*ratio.ratio, *ratio.subtracted)
    return (*ratio, torch.zeros_like(ratio[0]), torch.ones_like(ratio[1]))


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


def _comparisons(margins: Tensor, sum_margins: Tensor) -> dict[str, Tensor]:
    """The measures that contain neither an objective's strength nor a reference, of margins per token and of sums."""
    return {
        "pref/accuracies": win_rate(margins),
        "pref/margins": margins,
        "pref/accuracies_sum": win_rate(sum_margins),
    }


def preference_ratios(policy: PairLogps, output: ObjectiveOutput, weight: Tensor) -> dict[str, Ratio]:
    """The measures of a micro-batch: those that compare objectives, and the objective's own.

    Args:
        policy: log-probabilities under the policy.
        output: what the objective returned.
        weight: row weights, ``(B,)``.
    """
    per_pair = {"loss": output.loss, "logps/chosen": policy.chosen, "logps_mean/chosen": policy.chosen_mean}
    if policy.has_rejected:
        per_pair |= {
            **_comparisons(policy.chosen_mean - policy.rejected_mean, policy.chosen - policy.rejected),
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

    _check_names(output.terms, {*per_pair, "nll_response"})
    per_pair |= output.terms
    _check_shapes(per_pair, weight, "pair")
    weight = weight.to(output.loss.dtype)
    ratios = {name: _mean(values, weight) for name, values in per_pair.items()}
    ratios["nll_response"] = (weighted_sum(-policy.chosen, weight), (policy.chosen_tokens * weight).sum())
    return ratios


def unpaired_ratios(policy: UnpairedLogps, output: ObjectiveOutput, weight: Tensor) -> dict[str, Ratio | Difference]:
    """The measures of a micro-batch of single responses, under the names that those of pairs have.

    Those of the chosen responses are over the desirable ones, those of the rejected over the undesirable ones.

    Args:
        policy: log-probabilities under the policy.
        output: what the objective returned.
        weight: row weights, ``(R,)``.
    """
    per_kind = {"logps": policy.logps, "logps_mean": policy.mean}
    if output.rewards is not None:
        per_kind["rewards"] = output.rewards
    _check_shapes({"loss": output.loss, **per_kind, **output.terms}, weight, "response")
    weight = weight.to(output.loss.dtype)
    chosen, rejected = weight * policy.desirable, weight * ~policy.desirable
    ratios: dict[str, Ratio | Difference] = {
        "loss": _mean(output.loss, weight),
        "nll_response": (weighted_sum(-policy.logps, chosen), (policy.tokens * chosen).sum()),
    }
    for name, values in per_kind.items():
        ratios |= {f"{name}/chosen": _mean(values, chosen), f"{name}/rejected": _mean(values, rejected)}
    if output.rewards is not None:
        ratios["rewards/margins"] = Difference(_mean(output.rewards, chosen), _mean(output.rewards, rejected))
    if policy.pairs is not None:
        winning, losing = policy.pairs
        logps, means = policy.logps, policy.mean
        compared = _comparisons(means[winning] - means[losing], logps[winning] - logps[losing])
        ratios |= {name: _mean(values, weight[winning]) for name, values in compared.items()}
    _check_names(output.terms, {*ratios})
    return ratios | {name: _mean(values, weight) for name, values in output.terms.items()}


def _mean(values: Tensor, weight: Tensor) -> Ratio:
    return weighted_sum(values, weight), weight.sum()


def _check_names(terms: Mapping[str, Tensor], names: set[str]) -> None:
    taken = sorted(set(terms) & names)
    if taken:
        raise ValueError(f"an objective logs terms under names that are taken: {', '.join(taken)}")


def _check_shapes(values: Mapping[str, Tensor], weight: Tensor, unit: str) -> None:
    for name, value in values.items():
        if value.shape != weight.shape:
            raise ValueError(
                f"an objective returns one value per {unit}: {name!r} has the shape {tuple(value.shape)}, "
                f"for {len(weight)} {unit}s"
            )
