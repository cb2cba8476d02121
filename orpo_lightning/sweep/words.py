"""The words of a trial: those of the sweep's file, then the user's, then what makes it a trial."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orpo_lightning.secrets import secret_option
from orpo_lightning.sweep.command import KEPT, options_of
from orpo_lightning.sweep.file import OF_THE_SWEEP, Sweep
from orpo_lightning.sweep.overruled import overruled
from orpo_lightning.sweep.record import Trial, last_line

_NO_LOGGER = "--trainer.logger=false"
_NO_BAR = "--trainer.enable_progress_bar=false"


def words_of_fit(sweep: Sweep, trial: Trial, options: Sequence[str]) -> list[str]:
    """What trains the same as a trial, from the verb on; a user's options win over those of the file.

    Args:
        sweep: the sweep.
        trial: its parameters.
        options: the user's.
    """
    return [*sweep.command.fit(trial.parameters), _NO_LOGGER, *options]


def words_of_trial(sweep: Sweep, trial: Trial, folder: Path, options: Sequence[str]) -> list[str]:
    """What a trial runs, from the verb on; the same words again go on with it.

    Args:
        sweep: the sweep.
        trial: its parameters.
        folder: of the trial.
        options: the user's.
    """
    ours = (f"--trainer.default_root_dir={folder}", "--ckpt_path=last")
    return [*sweep.command.fit(trial.parameters), _NO_LOGGER, _NO_BAR, *options, *ours]


def check_options(sweep: Sweep, options: Sequence[str]) -> None:
    """Refuse options of the user that would take the place of what the sweep sets or varies.

    Args:
        sweep: the sweep.
        options: the user's.

    Raises:
        ValueError: there is one; says what is accepted.
    """
    if options and not options[0].startswith("-"):
        raise ValueError(f"{options[0]!r} belongs to no option; accepted: one FILE, and options as --key value")
    for option, _ in options_of(options):
        key = option.removeprefix("--")
        if key in OF_THE_SWEEP:
            raise ValueError(f"{option} is set by the sweep itself; accepted: {OF_THE_SWEEP[key]}")
    secret = secret_option(options)
    if secret is not None:
        raise ValueError(f"{secret} is {KEPT}")
    found = overruled(options, sweep.parameters)
    if found is not None:
        option, name = found
        raise ValueError(
            f"{option} would set {name} in every trial, which is a parameter of {sweep.name}; leave it out, or take "
            f"{name} out of the file"
        )


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
