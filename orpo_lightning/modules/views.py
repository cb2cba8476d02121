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
from orpo_lightning.records import ObjectiveOutput, PairLogps, ResponseLogps, StepInfo, UnpairedLogps

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
    def total_weight(self, step: StepInfo) -> float:
        """Sum of the row weights over all values of the loss of a global batch."""

    @abstractmethod
    def ratios(self, policy: Logps, output: ObjectiveOutput, weight: Tensor) -> Mapping[str, Ratio | Difference]:
        """The measures, of values of these weights."""


class PairView(View[PairLogps]):
    """The loss is a mean over pairs."""

    def logps(self, batch: PackedBatch, table: ResponseLogps) -> PairLogps:
        return batch.pairs(table)

    def sums(self, logps: PairLogps) -> Tensor:
        return logps.chosen

    def groups(self, batch: PackedBatch) -> Tensor:
        return batch.group[batch.chosen]

    def total_weight(self, step: StepInfo) -> float:
        return step.weight

    def ratios(self, policy: PairLogps, output: ObjectiveOutput, weight: Tensor) -> Mapping[str, Ratio]:
        return preference_ratios(policy, output, weight)


class UnpairedView(View[UnpairedLogps]):
    """The loss is a mean over responses; those of pairs too."""

    def logps(self, batch: PackedBatch, table: ResponseLogps) -> UnpairedLogps:
        return batch.unpaired(table)

    def sums(self, logps: UnpairedLogps) -> Tensor:
        return logps.logps

    def groups(self, batch: PackedBatch) -> Tensor:
        return batch.group[batch.judged]

    def total_weight(self, step: StepInfo) -> float:
        return step.response_weight

    def ratios(
        self, policy: UnpairedLogps, output: ObjectiveOutput, weight: Tensor
    ) -> Mapping[str, Ratio | Difference]:
        return unpaired_ratios(policy, output, weight)


def view_of(objective: Objective) -> View[PairLogps] | View[UnpairedLogps]:
    """The view that an objective declares."""
    return PairView() if objective.needs_pairs else UnpairedView()
