"""How a model comes to be in this process: whole, or as a strategy shares its weights out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from transformers import PreTrainedModel

from orpo_lightning.models.loading import PolicyConfig, load_together
from orpo_lightning.models.logp_model import LogpModel

Model = TypeVar("Model", bound=LogpModel)


def refuse_four_bits(config: PolicyConfig) -> None:
    """Insist that the weights of a model can be shared out over processes.

    Raises:
        ValueError: they are in 4 bits.
    """
    if config.load_in_4bit:
        raise ValueError(
            "model.policy.load_in_4bit = true, but trainer.strategy shares the weights out over the processes, and in "
            "4 bits they cannot be; accepted: trainer.strategy ddp, or one device"
        )


class ModelBuilder(Protocol):
    """Loads a model of a configuration, as a function of a batch."""

    def __call__(self, config: PolicyConfig, wrap: Callable[[PreTrainedModel], Model]) -> Model:
        """Load a model; all processes call this.

        Args:
            config: the model.
            wrap: what makes of it a function of a batch.
        """


def build_whole(config: PolicyConfig, wrap: Callable[[PreTrainedModel], Model]) -> Model:
    """Each process has all of the weights, and has held its share of their files against what was written."""
    return wrap(load_together(config))
