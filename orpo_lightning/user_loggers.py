"""The loggers that a user asks for besides metrics.csv: where they write, and what a resumed run goes on with."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from orpo_lightning.run_folder import WANDB_ID_FILE
from orpo_lightning.secrets import hide_values

WANDB_HELP = "WandbLogger needs the package wandb, which is not installed: pip install 'orpo-lightning[wandb]'"


def leave_folder_open(arguments: Iterable[argparse.Action]) -> None:
    """Let the configuration of a logger leave out where it writes: which folder is the run's is found out later.

    Args:
        arguments: those of a logger.
    """
    for action in arguments:
        if action.dest == "save_dir":
            action.required = False
            action.default = None


class LoggerMaker:
    """Makes the loggers of a configuration. Where it names no folder they write into that of the run.

    Weights & Biases gets the run folder itself, where it makes ``wandb/``; all others get one of their own in it, such
    as ``tensorboard/``. A resumed run goes on as the same run of Weights & Biases; files get a new version.

    Args:
        run: the run folder.
        goes_on: whether the run there goes on.

    Example:
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> make_logger = LoggerMaker(Path("runs/orpo"), goes_on=False)
        >>> make_logger(CSVLogger, save_dir=None).save_dir
        'runs/orpo/csv'
        >>> make_logger(CSVLogger, save_dir="elsewhere").save_dir
        'elsewhere'
    """

    def __init__(self, run: Path, goes_on: bool) -> None:
        self.run = run
        self.goes_on = goes_on

    def __call__(self, cls: type[Logger], **settings: Any) -> Logger:
        """Make one.

        Raises:
            ModuleNotFoundError: it is that of Weights & Biases, whose package is not installed.
        """
        if issubclass(cls, WandbLogger):
            if importlib.util.find_spec("wandb") is None:
                raise ModuleNotFoundError(WANDB_HELP)
            settings = self._complete_wandb(settings)
        elif "save_dir" in settings and settings["save_dir"] is None:
            settings["save_dir"] = str(self.run / cls.__name__.lower().removesuffix("logger"))
            if settings.get("name") == "lightning_logs":  # Lightning's default
                settings["name"] = None
        return cls(**settings)

    def _complete_wandb(self, settings: dict[str, Any]) -> dict[str, Any]:
        # an empty `resume` would undo Lightning's, and the record of a resumed run begin anew
        given = {name: value for name, value in settings.items() if value is not None}
        given |= {"config": hide_values(given["config"])} if "config" in given else {}
        given.setdefault("save_dir", given.get("dir") or os.environ.get("WANDB_DIR") or str(self.run))
        kept = self.run / WANDB_ID_FILE
        named = given.keys() & {"version", "id"} or os.environ.get("WANDB_RUN_ID")  # an agent of a sweep sets that
        if self.goes_on and not named and kept.exists():
            given["version"] = kept.read_text(encoding="utf-8").strip()
        return given


def leave_out_secrets(logger: Logger) -> None:
    """Have a logger that is told settings, by whomever, keep none of the secrets among them."""
    log = logger.log_hyperparams

    @functools.wraps(log)
    def log_others(params: Any, *args: Any, **kwargs: Any) -> None:
        log(hide_values(vars(params) if isinstance(params, argparse.Namespace) else params), *args, **kwargs)

    logger.log_hyperparams = log_others  # type: ignore[method-assign]  # whatever class it is of


def keep_wandb_id(loggers: Iterable[Logger], run: Path) -> None:
    """Note by which id Weights & Biases knows a run, so that :class:`LoggerMaker` finds it again.

    Args:
        loggers: of the run.
        run: its folder.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger.version:
            run.mkdir(parents=True, exist_ok=True)
            (run / WANDB_ID_FILE).write_text(f"{logger.version}\n", encoding="utf-8")
