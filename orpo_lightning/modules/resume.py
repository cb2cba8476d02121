"""Where a resumed run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from orpo_lightning.models.checkpoint import require
from orpo_lightning.objectives import Objective


def class_path(objective: Objective) -> str:
    """Where the class of an objective is imported from."""
    return f"{type(objective).__module__}.{type(objective).__qualname__}"


def describe_objective(objective: Objective, trained_by: list[list[Any]], state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its objective, as plain data.

    Args:
        objective: that of the run.
        trained_by: the objectives of the run so far and the steps that they began at.
        state: its state.
    """
    return {"class": class_path(objective), "repr": repr(objective), "trained_by": trained_by, "state": state}


def check_contents(checkpoint: Mapping[str, Any], goes_on: bool) -> None:
    """Insist that a checkpoint is one of a preference module, before anything is taken from it.

    Args:
        checkpoint: the loaded checkpoint.
        goes_on: whether a fit is going to continue from its place in the data.

    Raises:
        ValueError: says what is missing.
    """
    place = ("steps_per_epoch", "settings", "global_step", "loops.fit_loop") if goes_on else ()
    objective = ("objective.class", "objective.repr", "objective.trained_by", "objective.state")
    names = (*objective, "policy.settings", "base", "state_dict", *place)
    require(checkpoint, names, "the checkpoint")


def check_objective_of(saved: Mapping[str, Any], objective: Objective) -> None:
    """Insist that a run goes on with its own objective, and say so if its arguments are others.

    Args:
        saved: what the checkpoint says of its objective.
        objective: that of the run that resumes.

    Raises:
        ValueError: it is of another class.
    """
    if saved["class"] != class_path(objective):
        raise ValueError(
            f"the checkpoint is of a run of {saved['repr']}, this run is of {objective!r}: a run goes on with its own "
            "objective. To start another one from those weights, start from them as a model"
        )
    if saved["repr"] != repr(objective):
        rank_zero_warn(f"the run was of {saved['repr']} and goes on as {objective!r}")


def trained_by(checkpoint: Mapping[str, Any], objective: str | None) -> list[list[Any]]:
    """The objectives of a run and the steps that they began at.

    Args:
        checkpoint: the loaded checkpoint.
        objective: the one that it goes on with; None where nothing is left to train.

    Example:
        >>> saved = {"objective": {"trained_by": [[0, "ORPO(lambda_=0.1)"]]}, "global_step": 5}
        >>> trained_by(saved, "ORPO(lambda_=0.2)")
        [[0, 'ORPO(lambda_=0.1)'], [5, 'ORPO(lambda_=0.2)']]
    """
    before: list[list[Any]] = checkpoint["objective"]["trained_by"]
    return before if objective in (None, before[-1][1]) else [*before, [checkpoint["global_step"], objective]]


def check_reference_of(checkpoint: Mapping[str, Any], found: str) -> None:
    """Insist that a run goes on against the same reference.

    Args:
        checkpoint: the loaded checkpoint.
        found: fingerprint of the reference of the run that resumes.

    Raises:
        ValueError: it is another one.
    """
    if checkpoint.get("reference", found) != found:
        raise ValueError(
            f"the checkpoint was trained against another reference (its weights have the fingerprint "
            f"{checkpoint['reference']}, these have {found}); set model.reference.name_or_path to that model"
        )


def check_length_of(
    checkpoint: Mapping[str, Any], steps_per_epoch: int, max_epochs: int | None, total_steps: int
) -> None:
    """Insist that epochs have as many steps as they had and go on, and say so if nothing is left to train.

    Args:
        checkpoint: the loaded checkpoint.
        steps_per_epoch: optimizer steps per epoch of the run that resumes.
        max_epochs: its epochs; None or -1 is no limit.
        total_steps: its optimizer steps in all.

    Raises:
        ValueError: the epochs are of another length, or there are fewer than the checkpoint has seen.
    """
    saved = checkpoint["steps_per_epoch"]
    if saved != steps_per_epoch:
        raise ValueError(
            f"the checkpoint is of a run with {saved} optimizer steps an epoch, this run has {steps_per_epoch}: the "
            "training data, data.global_batch_size and trainer.limit_train_batches must be as they were"
        )
    step = checkpoint["global_step"]
    if max_epochs not in (None, -1) and step > max_epochs * steps_per_epoch:
        raise ValueError(
            f"trainer.max_epochs = {max_epochs} ends before step {step}, which the checkpoint is of; accepted: "
            f"{math.ceil(step / steps_per_epoch)} or more, or another checkpoint"
        )
    if step >= total_steps:
        rank_zero_warn(
            f"nothing is left to train: the checkpoint is of step {step}, and the run has "
            f"{total_steps}; raise trainer.max_epochs or trainer.max_steps"
        )


def log_as_of_step(trainer: Trainer, step: int) -> None:
    """Have the loggers count by the optimizer step; Lightning has a counter of its own, which not every resume sets."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def rewind_to_step(checkpoint: dict[str, Any], steps_per_epoch: int, accumulate: int) -> None:
    """Make the position in the epoch a function of the optimizer step.

    Lightning counts micro-batches. After a resume with another accumulation or number of ranks, or from a checkpoint
    written amid an accumulation, its count no longer fits the step, and it would train on other batches. And it takes
    an epoch that `max_steps` cut short for a whole one, whose other steps would never be taken.

    Args:
        checkpoint: the loaded checkpoint; its loop counters are changed in place.
        steps_per_epoch: optimizer steps per epoch of the run that resumes.
        accumulate: micro-batches per optimizer step and rank of the run that resumes.
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    _reopen_epoch(checkpoint, steps_per_epoch)
    batches_done, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]["current"]
    current, total = batches_done["current"], batches_done["total"]
    # saved in the hooks at the end of an epoch, that epoch is processed and not completed: all of its steps are done
    at_the_end = epochs["processed"] > epochs["completed"]
    step = steps_per_epoch if at_the_end else checkpoint["global_step"] - epochs["processed"] * steps_per_epoch
    # an epoch that is over, and not followed by another yet, stays in the total
    over = batches_done["is_last_batch"] and step == 0
    # a checkpoint saved inside a batch has one batch more processed than completed; Lightning reads that from it, and
    # takes a validation after that batch for done
    unfinished = 0 if checkpoint.get("amid_validation") else current["processed"] - current["completed"]
    for key in ("ready", "started", "processed", "completed"):
        batches = step * accumulate - (unfinished if key == "completed" else 0)
        total[key] += 0 if over else batches - current[key]
        current[key] = batches
    if 0 < step < steps_per_epoch:
        batches_done["is_last_batch"] = False  # between two steps the batch that comes next has been fetched
    if checkpoint.get("amid_validation"):
        _reopen_validation(fit_loop)
    # the loggers count by it; saved inside a batch, Lightning adds that batch's step when it goes on
    stepped = checkpoint["global_step"] - (1 if unfinished else 0)
    fit_loop.get("epoch_loop.state_dict", {})["_batches_that_stepped"] = stepped


def _reopen_validation(fit_loop: dict[str, Any]) -> None:
    """Make Lightning run the validation that was cut short or had not begun, from its first batch."""
    progress = fit_loop["epoch_loop.val_loop.batch_progress"]
    progress["is_last_batch"] = False
    progress["current"] = dict.fromkeys(progress["current"], 0)
    progress["total"] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def _reopen_epoch(checkpoint: dict[str, Any], steps_per_epoch: int) -> None:
    """Make an epoch that was cut short one that the checkpoint was saved amid."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    if checkpoint["global_step"] >= progress["current"]["processed"] * steps_per_epoch:
        return
    for epochs in progress.values():
        epochs["processed"] -= 1
        epochs["completed"] = epochs["processed"]
