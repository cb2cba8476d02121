"""What an exported model says of itself, and whether its weights are still those that were written."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orpo_lightning.manifest import CONFIG_HASH, Manifest, read_manifest
from orpo_lightning.models.damage import DamagedFileError
from orpo_lightning.ranks import from_all_ranks, place_on_machine

MODEL_MANIFEST = "model_manifest.json"


@dataclass(frozen=True)
class ModelManifest(Manifest):
    """What an exported model holds; its sizes are those of the files of its weights.

    Args:
        hashes: SHA-256 of each of these files.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)


def write_model_manifest(folder: Path, step: int, epoch: int, config: str | None) -> None:
    """Write down what the weights of a model folder are, their content among it.

    Args:
        folder: the model, or an adapter.
        step: optimizer steps of its training.
        epoch: the epoch that they ended in.
        config: hash of the configuration of the run; None where there was no command line.
    """
    weights = sorted(folder.glob("*.safetensors"))
    sizes = {each.name: each.stat().st_size for each in weights}
    manifest = replace(
        ModelManifest.of({"global_step": step, "epoch": epoch, CONFIG_HASH: config}, sizes),
        hashes={each.name: _hash_of(each) for each in weights},
    )
    (folder / MODEL_MANIFEST).write_text(json.dumps(manifest.plain(), indent=2), encoding="utf-8")


def check_content(folder: Path) -> None:
    """Insist that the weights of a model folder are those that were written, where it says which those are.

    Raises:
        DamagedFileError: they are not; names the file.
    """
    _refuse(_altered(folder, 0, 1))


def check_content_together(folder: Path) -> None:
    """The same by all processes of a group, each of which looks at its share; all have to call this.

    A share of what its machine has: another may have a copy of its own.

    Raises:
        DamagedFileError: they are not, on all of them.
    """
    found = from_all_ranks(_altered(folder, *place_on_machine()))
    _refuse(next((each for each in found if each is not None), None))


def _refuse(altered: str | None) -> None:
    if altered is not None:
        raise DamagedFileError(
            f"{altered}: copy or download the folder again; whoever has changed it on purpose removes {MODEL_MANIFEST} "
            "from it"
        )


def _altered(folder: Path, rank: int, ranks: int) -> str | None:
    """What is not as it was written, of this process's share; None if nothing is."""
    if not os.path.lexists(folder / MODEL_MANIFEST):
        return None
    try:
        manifest = read_manifest(folder / MODEL_MANIFEST, ModelManifest)
        if not manifest.hashes or manifest.hashes.keys() != manifest.sizes.keys():
            raise ValueError(f"{MODEL_MANIFEST} has to hold sizes and hashes of the same files, one at least")
        manifest.check_sizes({each.name: each.stat().st_size for each in folder.iterdir()})
        for name, content in sorted(manifest.hashes.items())[rank::ranks]:
            state = (folder / name).stat()
            if hash_once(str(folder / name), state.st_size, state.st_mtime_ns) != content:
                raise ValueError(f"{name} has been altered since it was written")
    except (ValueError, OSError) as error:
        return f"the model in {folder} is damaged: {error}"
    return None


@functools.cache
def hash_once(path: str, size: int, changed: int) -> str:
    """SHA-256 of a file, looked at once as long as nobody writes to it: a policy and its reference are often the same.

    Args:
        path: the file.
        size: of the file, bytes.
        changed: when it was last written to, ns.
    """
    return _hash_of(Path(path))


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
