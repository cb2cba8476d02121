"""How strategies that share a model out write checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ParallelStrategy

from orpo_lightning.secrets import without_secrets
from orpo_lightning.sharded_checkpoint import is_sharded, write_sharded
from orpo_lightning.whole_folder import write_whole


class CheckpointsOfAllRanks(ParallelStrategy):
    """A strategy whose checkpoints are folders that each process writes its part of, or one file of the first."""

    @property
    def writes_folders(self) -> bool:
        """Whether each process writes its part of a checkpoint."""
        raise NotImplementedError

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint, which is whole or not there; all processes call this."""
        if not self.writes_folders:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)
            return
        place = Path(filepath)
        if self.broadcast(place.is_dir() and not is_sharded(place)):  # on all of them: none waits for another
            raise IsADirectoryError(f"{place} cannot be written: a folder is there that is no checkpoint")
        if storage_options is not None:
            raise ValueError(f"storage_options = {storage_options!r}; accepted: None, checkpoints are local folders")

        def write(folder: Path | None) -> None:
            chosen = self.broadcast(folder)
            assert chosen is not None
            write_sharded(without_secrets(checkpoint), chosen)
            self.barrier()

        if self.is_global_zero:
            write_whole(place, write)
        else:
            write(None)
