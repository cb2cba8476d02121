"""The weights in the files of a model, known by their content without ever being in memory together."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from orpo_lightning.models.content import hash_once
from orpo_lightning.ranks import fail_together, from_all_ranks, place_on_machine, this_machine

# in the order in which transformers looks for them
_NAMES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def files_of_weights(folder: Path, named: str | None = None) -> list[Path]:
    """The files that the weights of a model are read from.

    Args:
        folder: the model.
        named: the file, or the index of files, that its settings name; None are those of the usual names.

    Raises:
        FileNotFoundError: there are none.
    """
    names = _NAMES if named is None else (named,)
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        raise FileNotFoundError(f"no weights in {folder}: accepted: {', '.join(names)}")
    if first.suffix != ".json":
        return [first]
    index = json.loads(first.read_text(encoding="utf-8"))
    return sorted({folder / name for name in index["weight_map"].values()})


def content_of(folder: Path, named: str | None = None) -> dict[str, str]:
    """SHA-256 of each weight by its name, dtype and shape, so that it does not count which file a weight is in.

    A .bin file is one part, by its name: those of torch's first format can only be read whole.

    Args:
        folder: the model.
        named: the file that its settings name, as in :func:`files_of_weights`.

    Raises:
        FileNotFoundError: there are no weights.
    """
    return _share_of(folder, named, 0, 1)


def content_together(folder: Path, named: str | None = None) -> dict[str, str]:
    """The same by all processes of a group, those of a machine each reading their share; all have to call this.

    Args:
        folder: the model.
        named: the file that its settings name, as in :func:`files_of_weights`.

    Raises:
        FileNotFoundError: there are no weights, on all of them.
        ValueError: machines have other weights than each other, on all of them.
    """
    place = place_on_machine()
    share = fail_together(lambda: _share_of(folder, named, *place))
    machines: dict[str, dict[str, str]] = {}
    for machine, of_process in from_all_ranks((this_machine(), share)):
        machines.setdefault(machine, {}).update(of_process)
    content, *others = machines.values()
    for other in others:
        different = sorted(name for name in content.keys() | other.keys() if content.get(name) != other.get(name))
        if different:
            raise ValueError(
                f"the weights in {folder} are not the same on all machines of the run, such as {different[0]}: copy or "
                "download the folder again"
            )
    return content


def _share_of(folder: Path, named: str | None, rank: int, ranks: int) -> dict[str, str]:
    content: dict[str, str] = {}
    for number, file in enumerate(files_of_weights(folder, named)):
        state = file.stat()
        if file.suffix == ".safetensors":
            content |= _look_once(file, state.st_size, state.st_mtime_ns, rank, ranks)
        elif number % ranks == rank:
            content[file.name] = hash_once(str(file), state.st_size, state.st_mtime_ns)
    return content


@functools.cache
def _look_once(file: Path, size: int, changed: int, rank: int, ranks: int) -> dict[str, str]:
    """A process's share of a file, looked at once as long as nobody writes to it."""
    return {f"{name} {each.dtype} {list(each.shape)}": _digest_of(each) for name, each in _share(file, rank, ranks)}


def _share(file: Path, rank: int, ranks: int) -> Iterator[tuple[str, Tensor]]:
    """The weights of a file, one by one."""
    with safe_open(file, "pt") as weights:
        for name in sorted(weights.keys())[rank::ranks]:
            yield name, weights.get_tensor(name)


def _digest_of(weight: Tensor) -> str:
    return hashlib.sha256(weight.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
