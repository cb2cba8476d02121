"""What the objectives of single responses share: each is judged on its own, desirable or not."""

from __future__ import annotations

from abc import abstractmethod

from orpo_lightning.objectives.base import Objective
from orpo_lightning.records import ObjectiveOutput, UnpairedLogps


class UnpairedObjective(Objective):
    """Base of the objectives of single responses; a pair is two of them, a desirable and an undesirable one."""

    needs_pairs = False

    @abstractmethod
    def __call__(self, policy: UnpairedLogps, reference: UnpairedLogps | None = None) -> ObjectiveOutput:
        """Values per response, ``(R,)``, the unit of the loss; implicit rewards go into ``rewards``.

        Args:
            policy: log-probabilities under the model that is trained.
            reference: the same under the reference model; None unless `needs_reference`.
        """
