"""LightningCLI over the module and the data module, both exchangeable by a config file."""

from __future__ import annotations

import os
import warnings
from typing import Any

from jsonargparse import lazy_instance
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console
from rich.table import Table

from orpo_lightning.__main__ import TRAINER_VERBS
from orpo_lightning.data.datamodule import PreferenceDataModule
from orpo_lightning.loggers import MetricsFile
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.objectives import ORPO, get_objective, list_objectives


class CLI(LightningCLI):
    """The trainer's verbs. A config file can bring another module, with its own data, under the same verbs."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Default module and data, and the values that one takes from the other."""
        objective = lazy_instance(ORPO)
        parser.set_defaults(
            {
                "model": lazy_instance(PreferenceModule, objective=objective),
                "data": lazy_instance(PreferenceDataModule),
            }
        )
        parser.link_arguments("model.init_args.policy.name_or_path", "data.init_args.tokenizer")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer; whatever loggers it is given, a fit also writes its measures to metrics.csv."""
        trainer = super().instantiate_trainer(**kwargs)
        fast_dev_run = trainer.fast_dev_run  # type: ignore[attr-defined]  # one of Lightning's connectors sets it
        if self.subcommand == "fit" and not fast_dev_run:
            trainer.loggers = [MetricsFile(trainer.default_root_dir), *trainer.loggers]
        return trainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs of the trainer that are offered."""
        skipped = LightningCLI.subcommands()
        return {verb: skipped[verb] for verb in TRAINER_VERBS}


def run_trainer() -> None:
    """Run the verb of ``sys.argv`` through the trainer."""
    # of Lightning's own making, and nothing that a user can act on
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # data is read from local files and models from local folders unless they are named by hub id
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    CLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        trainer_defaults={"logger": False, "use_distributed_sampler": False, "log_every_n_steps": 1},
    )


def print_objectives() -> None:
    """Print the table of objectives."""
    table = Table("objective", "loss", "reference", "arguments", "source")
    for name in list_objectives():
        cls = get_objective(name)
        objective = cls()
        arguments = ", ".join(f"{key}={value!r}" for key, value in objective.arguments().items())
        table.add_row(name, cls.formula, "yes" if objective.needs_reference else "no", arguments, cls.citation)
    Console().print(table)
