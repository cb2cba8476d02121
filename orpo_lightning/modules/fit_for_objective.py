"""Whether an objective, the model, the data and the batches of a run go together."""

from __future__ import annotations

from orpo_lightning.objectives import Objective
from orpo_lightning.records import ObjectiveOutput, StepInfo


def check_data(data: object) -> None:
    """Insist on data whose batches are planned.

    Args:
        data: the data module.

    Raises:
        ValueError: it does not tell what a plan is made of.
    """
    if not all(hasattr(type(data), name) for name in ("steps_per_epoch", "total_steps", "longest", "rows")):
        raise ValueError(
            "a PreferenceModule trains on planned batches: pass Trainer.fit a PreferenceDataModule, or a data "
            "module with its properties steps_per_epoch, total_steps, longest and rows and batches of the same kind"
        )


def check_positions(positions: int | None, longest: int) -> None:
    """Insist that a model has a position for every token.

    Args:
        positions: how many it has; None is no limit.
        longest: tokens of the longest conversation.

    Raises:
        ValueError: it has fewer.
    """
    if positions is not None and longest > positions:
        raise ValueError(
            f"the longest conversation has {longest} tokens and the model has {positions} positions: set "
            f"data.max_length to {positions} or less"
        )


def check_rows(objective: Objective, unpaired_row: str | None) -> None:
    """Insist on pairs where an objective takes pairs.

    Args:
        objective: that of the run.
        unpaired_row: the first row that is not a pair, if there is one.

    Raises:
        ValueError: it names the row.
    """
    if unpaired_row is not None and objective.needs_pairs:
        raise ValueError(
            f"the data has unpaired rows ({unpaired_row} is the first), and {type(objective).__name__} takes "
            "pairs of a chosen and a rejected response: use KTO, or data of pairs"
        )


def check_micro_batches(objective: Objective, micro_batches: int) -> None:
    """Insist on a whole global batch where an objective looks across it.

    Args:
        objective: that of the run.
        micro_batches: how many a global batch is split into, over all ranks.

    Raises:
        ValueError: it is split.
    """
    if objective.couples_pairs and micro_batches > 1:
        raise ValueError(
            f"{type(objective).__name__} couples the pairs of a batch, so its global batch cannot be split "
            f"into {micro_batches} micro-batches: set trainer.accumulate_grad_batches = 1 and use one process"
        )


def check_step(step: StepInfo, micro_batches: int) -> None:
    """Insist that the trainer takes the steps that were planned.

    Args:
        step: a planned one.
        micro_batches: how many the trainer takes a step, on all ranks.

    Raises:
        ValueError: it takes another number.
    """
    if step.micro_batches != micro_batches:
        raise ValueError(
            f"the batch plan was made for {step.micro_batches} micro-batches a step, but the trainer now takes "
            f"{micro_batches}: the accumulation must not change during training"
        )


def check_output(objective: Objective, output: object) -> None:
    """Insist that an objective has returned what the contract says.

    Args:
        objective: that of the run.
        output: what it returned.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(output, ObjectiveOutput):
        raise ValueError(f"{type(objective).__name__} returned a {type(output).__name__}; accepted: an ObjectiveOutput")
