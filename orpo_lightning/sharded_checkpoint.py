"""Checkpoints that are folders: each process writes what it holds of the weights and of the optimizer's state.

The tensors are in the format of :mod:`torch.distributed.checkpoint`, which any number of processes can read, one among
them. All else is in one file of plain data, where tensors without memory stand in the places of those of the
optimizers, and the manifest, which is written last, says what has to be there.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from orpo_lightning.manifest import MANIFEST_FILE, Manifest
from orpo_lightning.plain_data import check_plain, map_tensors
from orpo_lightning.ranks import fail_together
from orpo_lightning.write_errors import cause_of

PLAIN_FILE = "meta.pt"
METADATA_FILE = ".metadata"
WEIGHTS, OPTIMIZERS = "state_dict", "optimizer_states"
_PREFIX = f"{WEIGHTS}."
_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads what torch pickles of its metadata, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in _ALLOWED and not is_dtype:
            raise pickle.UnpicklingError(f"{module}.{name} is not metadata of a checkpoint")
        return super().find_class(module, name)


class SafeReader(FileSystemReader):
    """Reads tensors; its metadata cannot run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What is where."""
        with (Path(self.path) / METADATA_FILE).open("rb") as file:
            metadata: Metadata = _PlainUnpickler(file).load()
        return metadata


def is_sharded(path: Path) -> bool:
    """Whether a path is a checkpoint of this kind, whole or not."""
    return path.is_dir() and any((path / name).exists() for name in (MANIFEST_FILE, PLAIN_FILE, METADATA_FILE))


def write_sharded(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Write what this process holds into an empty folder, the same for all; all processes call this.

    Args:
        checkpoint: of the trainer; its weights and the states of its optimizers may be the parts of this process.
        folder: where to write.

    Raises:
        OSError: a process could not write its part, as on a full disk.
        ValueError: it holds more than tensors and plain data.
    """
    tensors, plain = fail_together(lambda: _apart(checkpoint))  # then torch has the processes wait for each other
    alone = not torch.distributed.is_initialized()
    try:
        with _quietly():
            save(
                tensors,
                storage_writer=_Writer(folder),
                no_dist=alone,
            )
    except CheckpointException as error:  # it is no Exception
        codes = {getattr(reason, "errno", None) or 0 for reason, _ in error.failures.values()}
        # of several reasons a disk that fails is the worst
        raise OSError(errno.EIO if errno.EIO in codes else max(codes), _reasons(error)) from error
    if alone or torch.distributed.get_rank() == 0:
        with (folder / PLAIN_FILE).open("wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        with (folder / MANIFEST_FILE).open("w", encoding="utf-8") as text:
            checksums = {METADATA_FILE: zlib.crc32((folder / METADATA_FILE).read_bytes())}
            json.dump(Manifest.of(plain, sizes, checksums).plain(), text, indent=2)
            text.flush()
            os.fsync(text.fileno())


def _apart(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by their names in the folder, and all else."""
    tensors: dict[str, Tensor] = {}

    def put_aside(name: str, tensor: Tensor) -> Tensor:
        if name in tensors:
            raise ValueError(f"a checkpoint cannot hold two tensors of the name {name}; give one of their keys another")
        tensors[name] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    for name, weight in checkpoint[WEIGHTS].items():
        if not isinstance(weight, Tensor):
            raise ValueError(
                f"a sharded checkpoint cannot hold {_PREFIX}{name}, a {type(weight).__name__}; accepted: tensors. Have "
                "the module write it into the checkpoint by its hook on_save_checkpoint"
            )
        put_aside(_PREFIX + name, weight)
    optimizers = [
        {**each, "state": map_tensors(each["state"], put_aside, f"{OPTIMIZERS}.{number}")}
        for number, each in enumerate(checkpoint.get(OPTIMIZERS, []))
    ]
    plain = {**checkpoint, WEIGHTS: {}, OPTIMIZERS: optimizers}
    check_plain(plain)
    return tensors, plain


class _Writer(FileSystemWriter):
    """Fails as the system says: what torch raises in its place is all that the other processes would hear."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise cause from error


def _reasons(error: CheckpointException) -> str:
    reasons = (reason for reason, _ in error.failures.values())
    return "; ".join(sorted({getattr(reason, "strerror", None) or str(reason) for reason in reasons}))


class ShardedCheckpoint:
    """A checkpoint in a folder, whose tensors are read as they are asked for, by each process for itself.

    Args:
        folder: where it is.

    Raises:
        ValueError: its metadata is damaged, or would run code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            metadata = SafeReader(folder).read_metadata()
            self.shapes = {
                name: each
                for name, each in metadata.state_dict_metadata.items()
                if isinstance(each, TensorStorageMetadata)
            }
            self.places: list[_StorageInfo] = list((metadata.storage_data or {}).values())
        except OSError:
            raise
        except Exception as error:  # bytes of any kind make pickle raise anything
            raise ValueError(f"{folder / METADATA_FILE} cannot be read ({error})") from error

    def plain(self) -> dict[str, Any]:
        """All but the tensors; in the state of an optimizer others of their shape and dtype, without memory.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            found: dict[str, Any] = torch.load(self.folder / PLAIN_FILE, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # bytes of any kind make torch raise anything
            raise ValueError(f"{self.folder / PLAIN_FILE} cannot be read as plain data") from error
        for number, optimizer in enumerate(found[OPTIMIZERS]):
            optimizer["state"] = optimizer["state"] or self._state_of_names(number)
        return found

    def load(self, into: Mapping[str, Tensor]) -> None:
        """Read tensors, or of those that are shared out the parts of this process, into others of their shape.

        Args:
            into: by their names in the folder.

        Raises:
            ValueError: they cannot be read.
        """
        if not into:
            return
        try:
            with _quietly():
                load(dict(into), storage_reader=SafeReader(self.folder), no_dist=True)
        except CheckpointException as error:
            raise ValueError(f"{self.folder} cannot be read ({_reasons(error)})") from error

    def load_weights(self, into: Mapping[str, Tensor]) -> None:
        """Read weights of the policy, by their names there, as :meth:`load` does."""
        self.load({_PREFIX + name: weight for name, weight in into.items()})

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors on the CPU, by their names in the folder."""
        shapes = {name: self.shapes[name] for name in names}
        found = {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in shapes.items()}
        self.load(found)
        return found

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights of the policy by their names, each read whole when it is asked for."""
        return _Weights(self)

    def optimizer_state(
        self, number: int, saved: Mapping[Any, Any], empty_like: Callable[[Any, str, Tensor], Tensor]
    ) -> dict[Any, Any]:
        """The state of an optimizer, all of it.

        Args:
            number: of the optimizer.
            saved: its state in what is plain.
            empty_like: what to read a tensor into, by the number of the parameter, the name of the tensor in the state,
                and one of its shape and dtype.

        Raises:
            ValueError: it cannot be read.
        """
        into: dict[str, Tensor] = {}
        prefix = f"{OPTIMIZERS}.{number}."

        def take(parameter: Any, name: str, like: Tensor) -> Tensor:
            into[f"{prefix}{name}"] = empty = empty_like(parameter, name, like)
            return empty

        state = {i: map_tensors(each, partial(take, i), str(i)) for i, each in saved.items()}
        self.load(into)
        return state

    def whole(self) -> dict[str, Any]:
        """All of it as one process without others would have written it."""
        checkpoint = self.plain()
        checkpoint[WEIGHTS] = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in self.tensors(name for name in self.shapes if name.startswith(_PREFIX)).items()
        }
        for number, optimizer in enumerate(checkpoint[OPTIMIZERS]):
            optimizer["state"] = self.optimizer_state(
                number, optimizer["state"], lambda _, name, like: torch.empty_like(like, device="cpu")
            )
        return checkpoint

    def _state_of_names(self, number: int) -> dict[int, dict[str, Tensor]]:
        """The state of an optimizer in what is plain, where it was written before that held any of it."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, each in self.shapes.items():
            if name.startswith(f"{OPTIMIZERS}.{number}."):
                parameter, _, key = name.removeprefix(f"{OPTIMIZERS}.{number}.").partition(".")
                like = torch.empty(each.size, dtype=each.properties.dtype, device="meta")
                state.setdefault(int(parameter), {})[key] = like
        return state


class _Weights(Mapping[str, Tensor]):
    def __init__(self, checkpoint: ShardedCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._names = [name.removeprefix(_PREFIX) for name in checkpoint.shapes if name.startswith(_PREFIX)]

    def __getitem__(self, name: str) -> Tensor:
        return self._checkpoint.tensors([_PREFIX + name])[_PREFIX + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.distributed is disabled, unavailable or uninitialized")
        yield
