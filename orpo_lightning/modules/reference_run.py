"""What the reference of a module is told of the run that it is in."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import ConcatDataset

from orpo_lightning.models.reference_cache import ReferenceRun


def reference_run(module: LightningModule, data: Any, prompt_logps: bool) -> ReferenceRun:
    """The run of a module that has a trainer.

    Args:
        module: the module.
        data: its data module.
        prompt_logps: whether the objective asks for the prompts too.
    """
    trainer, precision = module.trainer, module.trainer.precision_plugin
    return ReferenceRun(
        rows=lambda: ConcatDataset(list(data.rows.values())),
        prompt_logps=prompt_logps,
        device=trainer.strategy.root_device,
        precision=trainer.precision,
        autocast=precision.forward_context,
        place=lambda model: precision.convert_module(model).to(trainer.strategy.root_device),
        progress=trainer.progress_bar_callback is not None,
        say=rank_zero_info,
    )
