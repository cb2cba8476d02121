"""The two ways in which an objective looks at a batch: as pairs, or as single responses.

A view says what the loss is a mean over, how much each of these weighs, and what is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor

from orpo_lightning.metrics import Difference, Ratio, preference_ratios, unpaired_ratios
from orpo_lightning.objectives import Objective
from orpo_lightning.packing import PackedBatch
from orpo_lightning.records import ObjectiveOutput, PairLogps, PairScores, ResponseLogps, StepInfo, UnpairedLogps

Logps = TypeVar("Logps", PairLogps, UnpairedLogps)


class View(ABC, Generic[Logps]):
    """What the module has to know of a view."""

    @abstractmethod
    def logps(self, batch: PackedBatch, table: ResponseLogps) -> Logps:
        """The responses that a model scored, as the objective sees them."""

    @abstractmethod
    def sums(self, logps: Logps) -> Tensor:
        """Those log-probabilities by which two models are compared, nats."""

    @abstractmethod
    def groups(self, batch: PackedBatch) -> Tensor:
        """The prompt group that each value of the loss belongs to."""

    @abstractmethod
    def seen(self, logps: Logps) -> Mapping[str, Tensor]:
        """What each value of the loss is a function of, by name, without gradients."""

    @abstractmethod
    def total_weight(self, step: StepInfo) -> float:
        """Sum of the row weights over all values of the loss of a global batch."""

    @abstractmethod
    def ratios(self, policy: Logps, output: ObjectiveOutput, weight: Tensor) -> Mapping[str, Ratio | Difference]:
        """The measures, of values of these weights."""

    @abstractmethod
    def pairs(self, batch: PackedBatch, logps: Logps) -> PairScores | None:
        """The pairs one by one; None where there are none, or their rejected responses were not scored."""


class PairView(View[PairLogps]):
    """The loss is a mean over pairs."""

    def logps(self, batch: PackedBatch, table: ResponseLogps) -> PairLogps:
        return batch.pairs(table)

    def sums(self, logps: PairLogps) -> Tensor:
        return logps.chosen

    def groups(self, batch: PackedBatch) -> Tensor:
        return batch.group[batch.chosen]

    def seen(self, logps: PairLogps) -> Mapping[str, Tensor]:
        rejected = {"rejected": logps.rejected.detach()} if logps.has_rejected else {}
        return {"chosen": logps.chosen.detach(), **rejected}

    def total_weight(self, step: StepInfo) -> float:
        return step.weight

    def ratios(self, policy: PairLogps, output: ObjectiveOutput, weight: Tensor) -> Mapping[str, Ratio]:
        return preference_ratios(policy, output, weight)

    def pairs(self, batch: PackedBatch, logps: PairLogps) -> PairScores | None:
        if not logps.has_rejected:
            return None
        return _scores(batch, logps.chosen, logps.rejected, logps.chosen_tokens, logps.rejected_tokens)


class UnpairedView(View[UnpairedLogps]):
    """The loss is a mean over responses; those of pairs too."""

    def logps(self, batch: PackedBatch, table: ResponseLogps) -> UnpairedLogps:
        return batch.unpaired(table)

    def sums(self, logps: UnpairedLogps) -> Tensor:
        return logps.logps

    def groups(self, batch: PackedBatch) -> Tensor:
        return batch.group[batch.judged]

    def seen(self, logps: UnpairedLogps) -> Mapping[str, Tensor]:
        return {"desirable": logps.desirable, "logps": logps.logps.detach()}

    def total_weight(self, step: StepInfo) -> float:
        return step.response_weight

    def ratios(
        self, policy: UnpairedLogps, output: ObjectiveOutput, weight: Tensor
    ) -> Mapping[str, Ratio | Difference]:
        return unpaired_ratios(policy, output, weight)

    def pairs(self, batch: PackedBatch, logps: UnpairedLogps) -> PairScores | None:
        if logps.pairs is None:
            return None
        chosen, rejected = logps.pairs
        return _scores(batch, logps.logps[chosen], logps.logps[rejected], logps.tokens[chosen], logps.tokens[rejected])


def _scores(batch: PackedBatch, chosen: Tensor, rejected: Tensor, *tokens: Tensor) -> PairScores:
    groups = batch.group[batch.chosen]
    row_ids = tuple(batch.row_ids[place] for place in groups.tolist())
    return PairScores(row_ids, batch.weight[groups], chosen, rejected, *tokens)


def view_of(objective: Objective) -> View[PairLogps] | View[UnpairedLogps]:
    """The view that an objective declares."""
    return PairView() if objective.needs_pairs else UnpairedView()
