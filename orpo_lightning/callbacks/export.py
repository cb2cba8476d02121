"""The model of a fit as a Hugging Face folder beside its measures."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import nn

from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.callbacks.describe_run import DescribeRun
from orpo_lightning.data.report import read_reports
from orpo_lightning.manifest import config_hash
from orpo_lightning.models.card import ModelCard
from orpo_lightning.models.checkpoint import load_policy, read_checkpoint, tokenizer_of
from orpo_lightning.models.content import write_model_manifest
from orpo_lightning.models.export import write_model
from orpo_lightning.models.hub import MARKERS
from orpo_lightning.models.loading import PolicyConfig
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.run_folder import DATA_REPORT_FILE, MODEL_FOLDER, OF_THE_MACHINE, check_model_folder
from orpo_lightning.trainer_parts import callbacks_of, data_of, is_fast_dev_run
from orpo_lightning.versions import PACKAGE, versions
from orpo_lightning.whole_folder import whole_folder


class ExportModel(Callback):
    """Writes the policy as an ordinary Hugging Face folder when a fit ends; an adapter is merged.

    Args:
        enabled: whether to write it.
        folder: its name in the run folder.

    Raises:
        ValueError: `folder` is no name that it can have there.
    """

    def __init__(self, enabled: bool = True, folder: str = MODEL_FOLDER) -> None:
        check_model_folder(folder)
        self.enabled = enabled
        self.folder = folder

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder, in a hidden one until it is whole."""
        policy = getattr(pl_module, "policy", None)
        if not self.enabled or is_fast_dev_run(trainer) or not isinstance(policy, LogpModel):
            return
        is_shared_out = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        net = _of_last_checkpoint(trainer) if is_shared_out else policy.net
        if net is None:
            rank_zero_warn("no model folder is written: no process has all of the weights, and there is no checkpoint")
        else:
            self._write(trainer, pl_module, net)

    def _write(self, trainer: Trainer, pl_module: LightningModule, net: nn.Module) -> None:
        data = data_of(trainer)
        config = pl_module.policy_config
        assert isinstance(config, PolicyConfig)
        tokenizer = load_tokenizer(*tokenizer_of(data, config))
        run = Path(trainer.default_root_dir)
        card = ModelCard.of_run(
            run,
            objective=str(pl_module.trained_by),
            base_model=config.name_or_path,
            steps=trainer.global_step,
            version=versions()[PACKAGE],
            reports=getattr(data, "reports", None) or read_reports(run / DATA_REPORT_FILE),
            metrics={
                name: value.item()
                for name, value in trainer.callback_metrics.items()
                if not name.startswith(OF_THE_MACHINE)
            },
        )
        with whole_folder(run / self.folder, MARKERS) as folder:
            write_model(net, tokenizer, folder)
            card.write(folder)
            write_model_manifest(folder, trainer.global_step, trainer.current_epoch, _config_of(trainer))
        rank_zero_info(f"the trained model is in {run / self.folder}")


def _config_of(trainer: Trainer) -> str | None:
    """Hash of the configuration of the run; None where there was no command line."""
    descriptions = (each.config for each in callbacks_of(trainer) if isinstance(each, DescribeRun))
    return next(map(config_hash, descriptions), None)


def _of_last_checkpoint(trainer: Trainer) -> nn.Module | None:
    """The policy as this process alone reads it; None where its last step was not saved."""
    savers = [each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints)]
    found = (read_checkpoint(each.last_path) for each in savers if each.last_path.exists())
    return next((load_policy(each) for each in found if each.steps == trainer.global_step), None)
