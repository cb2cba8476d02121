"""A step whose loss or gradient is not finite, in the folder of its run."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning import Trainer

from orpo_lightning.modules.failed_step import FailedStep
from orpo_lightning.modules.finite import NonFiniteError
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.ranks import fail_together
from orpo_lightning.run_folder import FAILED_STEPS, config_of
from orpo_lightning.summary.words import short_path


def keep_failed_step(trainer: Trainer, module: PreferenceModule, error: NonFiniteError) -> str:
    """Write what it takes to take a step again: its micro-batches, and the weights from before it, as a checkpoint.

    All ranks have to call this. Without a configuration, of a run that was not started from the command line, nothing
    could be made of it, and nothing is written.

    Args:
        trainer: that of the fit.
        module: the module, which has stopped at the step.
        error: what it has raised.

    Returns:
        What to say of it; nothing where nothing is written.
    """
    folder = Path(trainer.default_root_dir)
    path = folder / FAILED_STEPS.replace("*", str(error.step))
    said = f"To take this step again and look into it: orpo-lightning replay {shlex.quote(short_path(path))}"
    try:
        own = fail_together(lambda: config_of(folder) if trainer.is_global_zero else None)
        config = trainer.strategy.broadcast(own)
        if config is None:
            return ""
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        del checkpoint["loops"]  # nothing goes on from here
        checkpoint[FailedStep.KEY] = FailedStep.of(module, error, config).to_plain()
        trainer.strategy.save_checkpoint(checkpoint, path)
    except Exception as failure:  # such as a full disk; it is the step that the run has failed on
        said = f"The step could not be kept for orpo-lightning replay: {failure}"
    return trainer.strategy.broadcast(said)
