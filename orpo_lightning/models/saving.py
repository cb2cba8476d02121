"""Model folders as transformers writes them, from any process."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel


def save_model(net: PreTrainedModel, folder: Path) -> None:
    """Write a model into a folder, in whichever process calls this.

    Of the processes of a group transformers would have the first alone write the weights: another that made a folder
    would leave it without.

    Args:
        net: the model.
        folder: where to write.
    """
    net.should_save_on_this_rank = lambda is_main_process: True  # type: ignore[method-assign]  # of this model
    net.save_pretrained(folder)
