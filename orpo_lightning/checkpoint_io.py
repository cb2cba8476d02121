"""Reading and writing of the trainer's checkpoints."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.types import _PATH
from torch import Tensor
from torch.serialization import MAP_LOCATION

from orpo_lightning.integrity import check_whole, check_whole_together
from orpo_lightning.manifest import MANIFEST, Manifest, size_of, tensor_sizes
from orpo_lightning.plain_data import check_plain, map_tensors
from orpo_lightning.ranks import place_among_ranks, together
from orpo_lightning.secrets import without_secrets
from orpo_lightning.sharded_checkpoint import OPTIMIZERS, WEIGHTS, ShardedCheckpoint, is_sharded
from orpo_lightning.whole_folder import take_place
from orpo_lightning.write_errors import SPACE, cause_of, not_written

_MARK = "pytorch-lightning_version"
"""What every trainer writes into its checkpoints."""


def refuse_address(path: _PATH) -> None:
    """Insist that a checkpoint is a file: one of an address is another at every reading, and whoever serves it decides.

    Raises:
        ValueError: it is a web address.

    Example:
        >>> refuse_address("runs/orpo/checkpoints/last.ckpt")
    """
    if str(path).startswith(("http://", "https://")):
        raise ValueError(
            f"ckpt_path = {str(path)!r} is a web address; accepted: a file or folder. Download the checkpoint, then "
            "name the file"
        )


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints as tensors and plain data alone, and writes each file whole or not at all.

    Other pickles are refused, whatever Lightning asks for: they may run any code when they are read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> SafeCheckpointIO().save_checkpoint({"pytorch-lightning_version": "2.6.0", "global_step": 7}, path)
        >>> SafeCheckpointIO().load_checkpoint(path)["global_step"]
        7
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint beside its place and rename it when it is on the disk.

        A run that cannot be kept any more stops: what it goes on to compute would be lost.

        Raises:
            OSError: it cannot be written, as on a full disk; says what to do.
            ValueError: it holds more than tensors and plain data, and could not be read again.
        """
        check_plain(checkpoint)
        if storage_options is not None or "file" not in get_filesystem(path).protocol:
            super().save_checkpoint(checkpoint, path, storage_options)  # other file systems have renames of their own
            return
        place = Path(str(path).removeprefix("file://"))
        try:
            _write(checkpoint, place)
        except (OSError, RuntimeError) as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise not_written(place, cause, _sizes(checkpoint, place, cause)) from error

    @together
    def load_checkpoint(
        self,
        path: _PATH,
        map_location: MAP_LOCATION = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint whole, also one that is a folder; `weights_only` does not count, it is always so.

        All processes of a run call this. Those of a machine hold a file against its checksums together, and have the
        weights and moments in it in memory once: these are for copying from, and not to be kept.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: the path is a web address, or the checkpoint holds more than tensors and plain data, is damaged,
                or is none.
        """
        refuse_address(path)
        if "file" not in get_filesystem(path).protocol:
            return super().load_checkpoint(path, map_location, weights_only=True)  # type: ignore[arg-type]  # narrower
        place = Path(str(path).removeprefix("file://"))
        check_whole_together(place)
        if is_sharded(place):
            return ShardedCheckpoint(place).whole()
        # elsewhere a file that is mapped could not be replaced by the next checkpoint
        return read_file(place, map_location, mmap=place_among_ranks()[1] > 1 and os.name == "posix")


def read_file(
    path: Path, map_location: MAP_LOCATION = lambda storage, location: storage, mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint that is one file, as tensors and plain data alone.

    Args:
        path: the file.
        map_location: where its tensors go.
        mmap: whether to read weights and moments from the file as they are used, in memory that processes share.

    Raises:
        ValueError: the file holds more, is damaged, or is no checkpoint.
    """
    try:
        loaded = torch.load(path, map_location, weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # bytes of any kind make torch raise anything
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise ValueError(
                f"{path} cannot be read as tensors and plain data alone, and to read it in another way could run "
                "any code; accepted: a checkpoint that this package wrote"
            ) from error
        raise ValueError(f"{path} cannot be read as a checkpoint; is it whole?") from error
    if not isinstance(loaded, dict) or _MARK not in loaded:
        raise ValueError(f"{path} is no checkpoint of a run; accepted: a .ckpt file that a fit wrote")
    if MANIFEST in loaded:
        found = tensor_sizes(loaded)
        try:
            manifest = Manifest.from_plain(loaded.pop(MANIFEST))
            unknown = sorted(found.keys() - manifest.sizes.keys())
            if unknown:
                raise ValueError(f"the manifest has no sizes of {', '.join(unknown)}")
            manifest.check_sizes(found)
        except ValueError as error:
            check_whole(path, str(error))
    return _without_file(loaded) if mmap else loaded


def _without_file(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that is mapped, with copies of what may be kept: all but weights and moments.

    Models copy weights, and optimizers copy moments to their device. On CPUs they keep them, and write to them in their
    next step, upon which the system copies them; until then the file is there, whatever takes its name.
    """

    def copy(name: str, tensor: Tensor) -> Tensor:
        # numbers of an optimizer, such as its steps, stay on the host
        is_moment = name.startswith(f"{OPTIMIZERS}.") and tensor.ndim > 0
        return tensor if is_moment or name.startswith(f"{WEIGHTS}.") else tensor.clone()

    return {key: map_tensors(value, copy, key) for key, value in checkpoint.items()}


def _is_pickle(path: Path) -> bool:
    """Whether a file is one, bare or as torch packs it."""
    if zipfile.is_zipfile(path):
        return True
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _sizes(checkpoint: dict[str, Any], place: Path, cause: OSError) -> str:
    """What a checkpoint needs and what there is; that of a quota or of a file the system does not tell."""
    if cause.errno not in SPACE:
        return ""
    needed = f"; it needs {_megabytes(size_of(checkpoint))}"
    if cause.errno != errno.ENOSPC:
        return needed
    there = next(folder for folder in place.absolute().parents if folder.exists())
    return f"{needed}, free are {_megabytes(shutil.disk_usage(there).free)}"


def _write(checkpoint: dict[str, Any], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not is_sharded(place):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))  # of somebody else's
    unfinished = place.with_name(f"{place.name}.part")
    unfinished.unlink(missing_ok=True)  # a kill may have left there another name of a checkpoint
    checkpoint = without_secrets(checkpoint)
    try:
        with unfinished.open("wb") as file:
            torch.save({**checkpoint, MANIFEST: Manifest.of(checkpoint, tensor_sizes(checkpoint)).plain()}, file)
            file.flush()
            os.fsync(file.fileno())
        take_place(unfinished, place)
    finally:
        with suppress(OSError):  # what kept it from being written says more
            unfinished.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
