"""What a checkpoint says of itself, so that a reader can tell whether it is whole before anything is taken from it."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

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
    def from_plain(cls, values: object, source: str = "the manifest") -> Self:
        """Read one back. What is not known here comes from a later version, and is passed over.

        Args:
            values: as :meth:`plain` gave them.
            source: what to call it.

        Raises:
            ValueError: something is missing, or of another type: nothing would be held against it.

        Example:
            >>> of_a_later_version = {**Manifest(3, 0, None, {}, {}).plain(), "later": 1}
            >>> Manifest.from_plain(of_a_later_version)
            Manifest(step=3, epoch=0, config=None, versions={}, sizes={}, checksums={})
            >>> Manifest.from_plain({**of_a_later_version, "sizes": None})
            Traceback (most recent call last):
            ...
            ValueError: the manifest has sizes = None; accepted: Mapping[str, int]
        """
        hints = get_type_hints(cls)
        if not isinstance(values, Mapping) or not hints.keys() <= values.keys():
            raise ValueError(f"{source} has to hold {', '.join(sorted(hints))}")
        for name, hint in hints.items():
            if not _is_of(values[name], hint):
                accepted = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
                raise ValueError(
                    f"{source} has {name} = {reprlib.repr(values[name])}; accepted: "
                    f"{str(accepted).removeprefix('collections.abc.')}"
                )
        return cls(**{name: values[name] for name in hints})

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


_Manifest = TypeVar("_Manifest", bound=Manifest)


def config_hash(config: Mapping[str, Any]) -> str:
    """What a configuration is recognised by, to find the run of a checkpoint or model again.

    All of ``config.yaml`` counts but the checkpoint that its run goes on from: a run that goes on in another folder, on
    other devices or with other loggers has another hash. Nothing is warned of or refused for it: what has to stay the
    same is compared setting by setting, and models by their weights.

    Args:
        config: plain data.

    Example:
        >>> config_hash({"seed_everything": 1, "ckpt_path": "last"}) == config_hash({"seed_everything": 1})
        True
        >>> config_hash({"trainer": {"devices": 1}}) == config_hash({"trainer": {"devices": 2}})
        False
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


def _is_of(value: object, hint: Any) -> bool:
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and _is_of(each, get_args(hint)[1]) for key, each in value.items()
        )
    return type(value) in (get_args(hint) or (hint,))  # of an int no bool


def read_manifest(file: Path, kind: type[_Manifest]) -> _Manifest:
    """The manifest in a file.

    Args:
        file: JSON.
        kind: what it has to be.

    Raises:
        ValueError: it is not there, or no manifest; names the file.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not the JSON that was written ({error})") from error
    return kind.from_plain(values, file.name)
