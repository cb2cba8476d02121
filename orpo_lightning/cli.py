"""The trainer's verbs over a module and a data module, both exchangeable by a config file."""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.callbacks.data_report import DataReport
from orpo_lightning.callbacks.describe_run import DescribeRun
from orpo_lightning.callbacks.early_stop import StoppedEarly
from orpo_lightning.callbacks.first_line import FirstLine
from orpo_lightning.callbacks.measures import KeptMeasures
from orpo_lightning.callbacks.one_checkpoint import OneCheckpoint
from orpo_lightning.callbacks.pair_measures import PairMeasuresFile
from orpo_lightning.callbacks.progress import StepProgress
from orpo_lightning.callbacks.run_record import RunRecordFile
from orpo_lightning.callbacks.stop_on_signal import StopOnSignal
from orpo_lightning.callbacks.summary import Summary
from orpo_lightning.checkpoint_io import SafeCheckpointIO, refuse_address
from orpo_lightning.command_line.config_files import shipped_configs
from orpo_lightning.command_line.help import help_for
from orpo_lightning.command_line.interpolation import MODE, refer_by_typed_keys
from orpo_lightning.command_line.options import CLASSES_OF_RUN, DEFAULT_CLASSES, import_class
from orpo_lightning.command_line.parser import Parser
from orpo_lightning.command_line.private_parts import start_objectives_afresh
from orpo_lightning.command_line.quiet import quieten
from orpo_lightning.command_line.trainer_settings import check_trainer
from orpo_lightning.data.datamodule import PreferenceDataModule
from orpo_lightning.loggers import MetricsFile
from orpo_lightning.ranks import together
from orpo_lightning.run_folder import DEFAULT_RUN
from orpo_lightning.run_start import (
    RunStart,
    find_checkpoint,
    start_of_fit,
    start_of_other_rank,
    start_that_writes_nothing,
)
from orpo_lightning.secrets import hide_words, hide_yaml
from orpo_lightning.strategies import register_strategies
from orpo_lightning.trainer_parts import callbacks_of, is_fast_dev_run
from orpo_lightning.user_loggers import LoggerMaker, leave_out_secrets
from orpo_lightning.verbs import TRAINER_VERBS


class SaveConfig(SaveConfigCallback):
    """Keeps the configuration of a fit beside its measures, and never writes over that of another."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["save_to_log_dir"] = False
        super().__init__(*args, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do not save yet: a checkpoint may still refuse the settings."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; in a fit only, as to measure a run changes nothing about it."""
        # in all processes: in the hook for it they wait for the first one, which saves alone
        if not self.already_saved:
            self.save_config(trainer, pl_module, "fit")
        self.already_saved = True

    @together
    @rank_zero_only
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml, or, where a run goes on with other settings, a numbered sibling."""
        config = self.config.clone()
        config.ckpt_path = None  # it is the configuration of the run, not of one of its parts
        text = hide_yaml(self.parser.dump(config, skip_unset=False))
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path, number = folder / "config.yaml", 1
        while path.exists() and path.read_text(encoding="utf-8") != text:
            number += 1
            path = folder / f"config-{number}.yaml"
        path.write_text(text, encoding="utf-8")


class CLI(LightningCLI):
    """The trainer's verbs. A config file can bring another module, with its own data, under the same verbs."""

    def init_parser(self, **kwargs: Any) -> Parser:
        """A parser with the option for configuration files."""
        parser = Parser(**kwargs)
        parser.add_config_argument()
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Default module and data, and the values that one takes from the other."""
        parser.set_defaults(
            {
                "model": {
                    "class_path": DEFAULT_CLASSES["model"],
                    "init_args": {"objective": DEFAULT_CLASSES["model.objective"]},
                },
                "data": {"class_path": DEFAULT_CLASSES["data"]},
            }
        )
        for key, path in CLASSES_OF_RUN.items():
            cls = import_class(path)
            assert cls is not None
            parser.add_lightning_class_args(cls, key)
        parser.link_arguments("model.init_args.policy.name_or_path", "data.init_args.tokenizer")
        parser.link_arguments("model.init_args.policy.revision", "data.init_args.tokenizer_revision")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._start: RunStart | None = None
        self._to_say: list[str] = []
        try:
            super().__init__(*args, **kwargs)
        finally:
            if self._start is not None:
                self._start.end()

    def before_instantiate_classes(self) -> None:
        """Take tensors and plain data alone from a checkpoint, and give a fit a folder of its own.

        That is a numbered sibling where another run is, unless that one is resumed.
        """
        config = self.config.get(self.subcommand)
        if config.weights_only is False:
            raise ValueError("weights_only = False would run any code that a checkpoint holds; accepted: True")
        config.weights_only = True  # for the strategies and plugins that read checkpoints in their own way
        refuse_address(config.ckpt_path or "")
        check_trainer(config.trainer)
        asked = Path(config.trainer.default_root_dir or DEFAULT_RUN).expanduser()
        ckpt_path = str(Path(config.ckpt_path).expanduser()) if config.ckpt_path else None
        config.trainer.default_root_dir = str(asked)
        data = import_class(config.data.class_path) if config.data else None
        if data is not None and issubclass(data, PreferenceDataModule):
            config.trainer.use_distributed_sampler = False  # the batch plan knows the ranks
        if self.subcommand != "fit":
            config.ckpt_path = ckpt_path and str(find_checkpoint(asked, ckpt_path))
            return
        _check_length(config.trainer)
        self._start = self._find_start(asked, ckpt_path, config)
        config.trainer.default_root_dir = str(self._start.folder)
        config.ckpt_path = self._start.checkpoint and str(self._start.checkpoint)

    def _find_start(self, asked: Path, ckpt_path: str | None, config: Namespace) -> RunStart:
        if config.trainer.fast_dev_run:
            return start_that_writes_nothing(asked, ckpt_path)
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # it is set on the function
            return start_of_other_rank(asked, ckpt_path)
        return start_of_fit(asked, ckpt_path, self._to_say.append, config.export.folder)

    def instantiate_classes(self) -> None:
        """Make what is configured; loggers that are told no folder write into that of the run."""
        config = self.config.get(self.subcommand)
        goes_on = self.subcommand == "fit" and config.ckpt_path is not None
        make_logger = LoggerMaker(Path(config.trainer.default_root_dir), goes_on)
        self.parser.add_instantiator(make_logger, Logger)
        super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Refuse what the data cannot be split into, before other ranks are started; then say where the run is."""
        if self.subcommand == "fit" and isinstance(self.datamodule, PreferenceDataModule):
            self.datamodule.check_global_batch(self.trainer)
        for sentence in self._to_say:
            rank_zero_info(sentence)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer; whatever loggers it is given, a fit also writes its measures to metrics.csv."""
        own = self._get(self.config_init, "trainer")["callbacks"]
        own_bar = any(isinstance(each, ProgressBar) for each in (own if isinstance(own, list) else [own]))
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = callbacks_of(trainer)
        if not own_bar:
            callbacks[:] = [StepProgress() if isinstance(each, ProgressBar) else each for each in callbacks]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # neither a user's own nor an accelerator's
            trainer.strategy.checkpoint_io = SafeCheckpointIO()
        callbacks.insert(0, DescribeRun(self._configuration))
        callbacks.append(FirstLine())
        if self.subcommand == "fit" and not is_fast_dev_run(trainer):
            file = MetricsFile(trainer.default_root_dir)
            trainer.loggers = [file, *trainer.loggers]
            callbacks += [DataReport(), KeptMeasures(file), PairMeasuresFile(), RunRecordFile()]
        for logger in trainer.loggers:
            leave_out_secrets(logger)
        callbacks.sort(key=lambda callback: isinstance(callback, Summary))  # it tells of what the others leave behind
        _watch_over_ranks(trainer.strategy.launcher)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [each for each in callbacks if not isinstance(each, Checkpoints)]
        if self._start is not None:
            go_on = self._start.command_to_go_on(hide_words(sys.argv[1:]))
            callbacks = [
                *callbacks,
                StoppedEarly(self._criteria()),
                StopOnSignal(go_on),
                OneCheckpoint(self._start.checkpoint),
            ]
        return super()._instantiate_trainer(config, callbacks)

    def _criteria(self) -> list[Any]:
        """What may stop a run early."""
        trainer = self._configuration["trainer"]
        own = trainer["callbacks"] or []
        return [*(own if isinstance(own, list) else [own]), {"max_time": trainer["max_time"]}]

    @cached_property
    def _configuration(self) -> dict[str, Any]:
        """All settings as plain data without secrets, from when the trainer is made."""
        text = self._parser(self.subcommand).dump(self.config.get(self.subcommand), skip_unset=False)
        return dict(yaml.safe_load(hide_yaml(text)))

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not (isinstance(seed, bool) or 0 <= seed <= max_seed_value):
            raise ValueError(f"seed_everything = {seed} is out of range; accepted: 0 to {max_seed_value}")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Settings come from the command line and its files alone: Lightning would take those of a checkpoint."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verb that is asked for, as a parser for each takes its time; where none is asked for all of them."""
        skipped = LightningCLI.subcommands()
        asked = [verb for verb in TRAINER_VERBS if verb in sys.argv[1:2]]
        return {verb: skipped[verb] for verb in asked or TRAINER_VERBS}


def _watch_over_ranks(launcher: object) -> None:
    """Leave no secret in the command line, which Weights & Biases keeps, as soon as no rank is started by it any more.

    Lightning starts loggers before any hook of a callback, but for the one that is told of a failure. Where the process
    that has started the others fails alone, as a logger may there, they end with it.
    """

    def hide() -> None:
        sys.argv[1:] = hide_words(sys.argv[1:])

    if not isinstance(launcher, _SubprocessScriptLauncher):
        hide()
        return
    launch = launcher.launch

    def launch_and_hide(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def hide_and_run(*args: Any, **kwargs: Any) -> Any:
            hide()
            return function(*args, **kwargs)

        try:
            return launch(hide_and_run, *args, **kwargs)
        except Exception:
            # when it has said why: they may wait for it half an hour
            atexit.register(launcher.kill, signal.SIGKILL)
            raise
        finally:
            hide()  # also where no rank could be started

    launcher.launch = launch_and_hide  # type: ignore[method-assign]  # of this one launcher, of whatever class


def _check_length(trainer: Namespace) -> None:
    """Insist that something ends the training; Lightning would go on for 1000 epochs."""
    limits = (trainer.max_epochs not in (None, -1), trainer.max_steps != -1, trainer.max_time, trainer.fast_dev_run)
    if not any(limits):
        raise ValueError(
            "nothing says how long to train: set trainer.max_epochs or trainer.max_steps, or start from a whole "
            f"configuration: --config NAME, one of: {', '.join(name for name in shipped_configs() if '/' not in name)}"
        )


def run_trainer() -> None:
    """Run the verb of ``sys.argv`` through the trainer."""
    text = help_for(sys.argv[1], sys.argv[2:])
    if text is not None:
        print(text)
        return
    make_cli(CLI, save_config_callback=SaveConfig)


def make_cli(cls: type[CLI], **options: Any) -> CLI:
    """The command line of a verb that reads the configuration of a run."""
    quieten()
    refer_by_typed_keys()
    start_objectives_afresh()
    register_strategies()
    return cls(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": MODE, "allow_abbrev": False},
        trainer_defaults={
            "logger": False,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "num_sanity_val_steps": -1,  # all of the validation data, for measures from before the first step
        },
        **options,
    )
