"""The words of a trial: those of the sweep's file, then the user's, then what makes it a trial."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orpo_lightning.sweep.file import Sweep
from orpo_lightning.sweep.record import Trial, last_line

OF_THE_SWEEP = {"trainer.default_root_dir": "--out", "ckpt_path": "--resume"}
"""Settings that a sweep makes itself, and the option that is meant."""
_QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false")


def words_of_fit(sweep: Sweep, trial: Trial, options: Sequence[str]) -> list[str]:
    """What trains the same as a trial, from the verb on; a user's options win over those of the file.

    Args:
        sweep: the sweep.
        trial: its parameters.
        options: the user's.
    """
    return [*sweep.command.fit(trial.parameters), _QUIET[0], *options]


def words_of_trial(sweep: Sweep, trial: Trial, folder: Path, options: Sequence[str]) -> list[str]:
    """What a trial runs, from the verb on; the same words again go on with it.

    Args:
        sweep: the sweep.
        trial: its parameters.
        folder: of the trial.
        options: the user's.
    """
    ours = (f"--trainer.default_root_dir={folder}", "--ckpt_path=last")
    return [*sweep.command.fit(trial.parameters), *_QUIET, *options, *ours]


def check_words(words: Sequence[str], file: Path) -> None:
    """Have the parser of a fit read the settings of the first trial, before anything runs.

    Args:
        words: of the trial.
        file: that they are from.

    Raises:
        ValueError: it refuses them; says what it says.
    """
    command = [sys.executable, "-m", "orpo_lightning", *words, "--print_config"]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise ValueError(f"{file}: a trial would end at once: {last_line(asked.stderr)}")
