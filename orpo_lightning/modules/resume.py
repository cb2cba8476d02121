"""Where a resumed run goes on."""

from __future__ import annotations

from typing import Any


def rewind_to_step(checkpoint: dict[str, Any], steps_per_epoch: int, accumulate: int) -> None:
    """Make the position in the epoch a function of the optimizer step.

    Lightning counts micro-batches. After a resume with another accumulation or number of ranks, or from a checkpoint
    written amid an accumulation, its count no longer fits the step, and it would train on other batches.

    Args:
        checkpoint: the loaded checkpoint; its loop counters are changed in place.
        steps_per_epoch: optimizer steps per epoch of the run that resumes.
        accumulate: micro-batches per optimizer step and rank of the run that resumes.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    current, total = progress["current"], progress["total"]
    # at the end of an epoch the counter stands at its last batch, not at 0 of the next
    step = checkpoint["global_step"] % steps_per_epoch or (steps_per_epoch if current["processed"] else 0)
    # a checkpoint saved inside a batch has one batch more processed than completed; Lightning reads that from it
    unfinished = current["processed"] - current["completed"]
    for key in ("ready", "started", "processed", "completed"):
        batches = step * accumulate - (unfinished if key == "completed" else 0)
        total[key] += batches - current[key]
        current[key] = batches
