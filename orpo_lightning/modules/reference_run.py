"""What the reference of a module is told of the run that it is in, and whether the policy starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
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


def start_difference(policy: Tensor, reference: Tensor) -> Tensor:
    """How far the log-probabilities of a policy are from those of its reference, relative to the largest.

    Args:
        policy: its log-probabilities, ``(R,)``.
        reference: those of the reference, ``(R,)``.
    """
    return (policy - reference).abs().max() / reference.abs().max().clamp_min(1e-6)


def check_start(difference: Tensor, tolerance: float, row_ids: Sequence[str]) -> None:
    """Insist that a policy starts from its reference.

    Args:
        difference: the largest of all ranks, so that all of them stop. NaN is not larger, and stops the run as a loss.
        tolerance: what rounding may make of none.
        row_ids: the rows of this rank.

    Raises:
        ValueError: they differ; names the rows.
    """
    if difference > tolerance:
        raise ValueError(
            "before the first step the policy must equal its reference, but their log-probabilities differ by "
            f"{difference.item():.2g} (relative), on this rank on the rows {', '.join(row_ids)}. If they are meant to "
            "differ, name the reference: model.reference.name_or_path"
        )
