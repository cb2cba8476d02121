"""How strategies that share a model out write checkpoints."""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ParallelStrategy

from orpo_lightning.checkpoint_io import read_file
from orpo_lightning.integrity import check_whole_together
from orpo_lightning.ranks import fail_together
from orpo_lightning.secrets import without_secrets
from orpo_lightning.sharded_checkpoint import ShardedCheckpoint, is_sharded, write_sharded
from orpo_lightning.whole_folder import whole_folder
from orpo_lightning.write_errors import cause_of, not_written

_T = TypeVar("_T")


class CheckpointsOfAllRanks(ParallelStrategy):
    """A strategy whose checkpoints are folders that each process writes its part of, or one file of the first."""

    _opened: ShardedCheckpoint | None = None
    """A folder whose tensors are still to be read."""

    @property
    @abstractmethod
    def writes_folders(self) -> bool:
        """Whether each process writes its part of a checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint, which is whole or not there; all processes call this.

        Raises:
            OSError: one of them cannot write, as on a full disk; all of them raise it, in the same words.
        """
        if not self.writes_folders:
            fail_together(lambda: self._write_file(checkpoint, filepath, storage_options))
            return
        if storage_options is not None:
            raise ValueError(f"storage_options = {storage_options!r}; accepted: None, checkpoints are local folders")
        place = Path(filepath)
        kept = _write_together(place, lambda: without_secrets(checkpoint))
        with ExitStack() as opened:
            folder = self.broadcast(_write_together(place, lambda: self._open(place, opened)))
            _write_together(place, lambda: write_sharded(kept, folder))
            _write_together(place, opened.close)  # it takes its place

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Have the optimizer restored when the hooks have seen the checkpoint, which may refuse it."""
        return True

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; the tensors of a folder are read when the hooks have seen the rest."""
        path = Path(self.broadcast(checkpoint_path))
        check_whole_together(path)
        return fail_together(lambda: self._read(path))

    def _read(self, path: Path) -> dict[str, Any]:
        self._opened = ShardedCheckpoint(path) if is_sharded(path) else None
        return read_file(path, mmap=True) if self._opened is None else self._opened.plain()

    def _write_file(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def _open(self, place: Path, opened: ExitStack) -> Path:
        """Where to write, which the first process makes."""
        if not self.is_global_zero:
            return place
        if place.is_dir() and not is_sharded(place):
            raise IsADirectoryError(errno.EISDIR, "a folder is there that is no checkpoint")
        return opened.enter_context(whole_folder(place))


def check_weights(own: Collection[str], untrained: Iterable[str], saved: Iterable[str]) -> set[str]:
    """Insist that a checkpoint holds the weights that a model trains, and no others.

    Args:
        own: the names in the state of the model.
        untrained: those among them that training does not change; a checkpoint may hold them or not.
        saved: the names in the checkpoint.

    Returns:
        The names of what is to be loaded.

    Raises:
        ValueError: it lacks some, or has others; names them.

    Example:
        >>> check_weights(["bias", "scale", "weight"], ["scale"], ["bias", "gate"])
        Traceback (most recent call last):
        ...
        ValueError: the checkpoint is of another model: it lacks 1 of its weights (weight), and has 1 too many (gate)
    """
    others = set(untrained)
    trained, found = set(own) - others, set(saved) - others
    lacking, strays = sorted(trained - found), sorted(found - trained)
    said = [f"lacks {len(lacking)} of its weights ({_some(lacking)})"] if lacking else []
    said += [f"has {len(strays)} too many ({_some(strays)})"] if strays else []
    if said:
        raise ValueError(f"the checkpoint is of another model: it {', and '.join(said)}")
    return trained


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names)


def _write_together(place: Path, act: Callable[[], _T]) -> _T:
    """Take a part in the writing of a checkpoint; where it fails in one process, all of them say so of its place."""

    def named() -> _T:
        try:
            return act()
        except (OSError, RuntimeError) as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise not_written(place, cause) from error

    return fail_together(named)
