"""What the objectives of the log-ratios to a reference model share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from orpo_lightning.objectives.base import Objective
from orpo_lightning.records import ObjectiveOutput, PairLogps


class LogRatioObjective(Objective):
    """Base of the objectives of ``h_w - h_l``, h = log-ratio of a response under policy and reference."""

    needs_reference = True
    length_normalized: bool
    strength_name: ClassVar[str]
    """The factor from a log-ratio to an implicit reward."""

    @abstractmethod
    def pair_loss(self, margin: Tensor) -> Tensor:
        """The loss of each pair as a function of ``h_w - h_l``, ``(B,)``."""

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        assert reference is not None
        chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
        if self.length_normalized:
            chosen, rejected = chosen / policy.chosen_tokens, rejected / policy.rejected_tokens
        scale: float = getattr(self, self.strength_name)
        return ObjectiveOutput(self.pair_loss(chosen - rejected), scale * chosen.detach(), scale * rejected.detach())
