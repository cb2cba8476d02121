"""What a checkpoint says of itself, so that a reader can tell whether it is whole before anything is taken from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch

from orpo_lightning.versions import versions

MANIFEST_FILE = "manifest.json"
MANIFEST = "manifest"
"""The key of the manifest in a checkpoint that is one file."""
CONFIG_HASH = "config_hash"
"""The key of the hash of the configuration in a checkpoint."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Args:
        step: optimizer steps done.
        epoch: the epoch that they are in.
        config: hash of the configuration of the run; None where there was no command line.
        versions: of this package and of what it computes with.
        sizes: bytes of each part: of a file the tensors by their kind, of a folder its files.
        checksums: CRC-32 of the files of a folder that have none inside.
    """

    step: int
    epoch: int
    config: str | None
    versions: Mapping[str, str]
    sizes: Mapping[str, int]
    checksums: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, checkpoint: Mapping[str, Any], sizes: Mapping[str, int], checksums: Mapping[str, int] | None = None
    ) -> Self:
        """That of a checkpoint of the trainer.

        Args:
            checkpoint: its contents.
            sizes: bytes of each part.
            checksums: of the files that have none inside.
        """
        return cls(
            step=checkpoint.get("global_step", 0),
            epoch=checkpoint.get("epoch", 0),
            config=checkpoint.get(CONFIG_HASH),
            versions=versions(),
            sizes=dict(sizes),
            checksums=dict(checksums or {}),
        )

    @classmethod
    def from_plain(cls, values: object) -> Self:
        """Read one back, of this version or another.

        What has a default came later: it may be missing, and then nothing is held against it. What is not known here
        comes from a later version, and is passed over.

        Raises:
            ValueError: it is no manifest.

        Example:
            >>> of_another_version = {"step": 3, "epoch": 0, "config": None, "versions": {}, "sizes": {}, "later": 1}
            >>> Manifest.from_plain(of_another_version)
            Manifest(step=3, epoch=0, config=None, versions={}, sizes={}, checksums={})
        """
        needed = {each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING}
        if not isinstance(values, Mapping) or not needed <= values.keys():
            raise ValueError(f"the manifest has to hold {', '.join(sorted(needed))}")
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def check_sizes(self, found: Mapping[str, int]) -> None:
        """Insist that every part is there, and of the size that it was written with.

        Args:
            found: bytes of each part that is there.

        Raises:
            ValueError: names the first that is not.

        Example:
            >>> Manifest(3, 0, None, {}, {"__0_0.distcp": 20}).check_sizes({"__0_0.distcp": 12})
            Traceback (most recent call last):
            ...
            ValueError: __0_0.distcp has 12 bytes and was written with 20
        """
        for name, size in self.sizes.items():
            if name not in found:
                raise ValueError(f"{name} is missing")
            if found[name] != size:
                raise ValueError(f"{name} has {found[name]:,} bytes and was written with {size:,}")


def config_hash(config: Mapping[str, Any]) -> str:
    """What a configuration is recognised by; from which checkpoint its run goes on is not a part of it.

    Example:
        >>> config_hash({"seed_everything": 1, "ckpt_path": "last"}) == config_hash({"seed_everything": 1})
        True
    """
    kept = {key: value for key, value in config.items() if key != "ckpt_path"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def tensor_sizes(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of the tensors of a checkpoint, by the key that they are under.

    Example:
        >>> tensor_sizes({"state_dict": {"weight": torch.zeros(3)}, "global_step": 7})
        {'state_dict': 12}
    """
    sizes = {key: size_of(value) for key, value in checkpoint.items() if key != MANIFEST}
    return {key: size for key, size in sizes.items() if size}


def size_of(value: object) -> int:
    """Bytes of all tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, list | tuple) else 0


def read_manifest(folder: Path) -> Manifest:
    """That of a folder.

    Raises:
        ValueError: it is not there, or no manifest.
    """
    try:
        return Manifest.from_plain(json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{MANIFEST_FILE} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{MANIFEST_FILE} is no text") from error
