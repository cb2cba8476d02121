"""What a run prints beside its own lines: warnings without the path of a source file, and no noise."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path

from orpo_lightning.models.loading import hide_loading_bars

_PACKAGE = Path(__file__).parents[1]
_NOISE = re.compile(
    r"Seed set to|GPU available|TPU available|HPU available|LOCAL_RANK|Tip:|💡|`Trainer\.fit` stopped|"
    r"Using (bfloat16|16bit) Automatic Mixed Precision|All distributed processes registered|Initializing distributed|"
    r"Failed to load CPU gemm_4bit_forward"  # weights in 4 bits are kept from it, wherever they run
)
"""Of what libraries say: what the first line of a run says too, and what a user can do nothing about."""
_OUT_OF_OUR_HANDS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*your dataloader is not resumable",  # the batch plan makes it so
    r"Total length of `list` across ranks is zero",  # no validation data
    r"The '\w+_dataloader' does not have many workers",  # rows are tokenized before training
    r"It is recommended to use `self\.log\(.*sync_dist=True",  # what is logged is of all ranks already
    r"You called `self\.log\(.* but have no logger configured",  # a fast_dev_run has none
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"Be aware that when using `ckpt_path`, callbacks used to create",  # a run that is measured needs none of them
    r"Checkpoint directory .* exists and is not empty",
    r".*`lr_scheduler\.step\(\)` before `optimizer\.step\(\)`",  # a step that a gradient scaler skips
)


def quieten() -> None:
    """Leave out what a user can do nothing about, and print warnings as one line each."""
    for message in _OUT_OF_OUR_HANDS:
        warnings.filterwarnings("ignore", message)
    # transformers would ask the hub in the background to convert the .bin files of a model that has no safetensors
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    hide_loading_bars()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_of_use)
    warnings.formatwarning = _one_line


_LOGGERS = (
    *("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"),
    *("lightning.fabric.utilities.seed", "lightning.pytorch.utilities.seed", "lightning.fabric.utilities.distributed"),
    "bitsandbytes.backends.cpu.ops",
)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not _NOISE.search(record.getMessage())


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours by its message alone, another one with the package that it is from."""
    path = Path(filename)
    if path.is_relative_to(_PACKAGE):
        return f"warning: {message}\n"
    parts = path.parts
    source = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else path.name
    return f"warning ({source.removesuffix('.py')}): {message}\n"
