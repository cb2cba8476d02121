"""Whether a checkpoint is what was written: torch reads one with altered bytes as if nothing were wrong."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch.distributed

from orpo_lightning.manifest import read_manifest
from orpo_lightning.sharded_checkpoint import PLAIN_FILE, ShardedCheckpoint, is_sharded

_CHUNK = 1 << 20
_ARCHIVE = b"PK"
"""What the archives of torch begin with."""


def check_whole(path: Path) -> None:
    """Insist that a checkpoint is whole before it is read; where it is not, name one beside it that is.

    Args:
        path: the checkpoint; all processes of a group call this.

    Raises:
        ValueError: it is damaged.
    """
    wrong = damage(path) if path.exists() else None
    if wrong is None:
        return
    others = sorted(path.parent.glob("*.ckpt"), key=lambda each: each.stat().st_mtime_ns, reverse=True)
    whole = next((each for each in others if each != path and damage(each) is None), None)
    advice = f"whole is {whole}: --ckpt_path {whole}" if whole else "no other checkpoint beside it is whole"
    raise ValueError(f"{path} is damaged: {wrong}; {advice}")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole.

    Every byte of the tensors is held against the checksum that is beside it. In a process group each process looks at
    its share, and all have to call this; all get the same answer.

    Args:
        path: a file, or the folder of one that is sharded.
    """
    rank, ranks = 0, 1
    if torch.distributed.is_initialized():
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = _damage(path, rank, ranks)
    if ranks == 1:
        return own
    gathered: list[str | None] = [None] * ranks
    torch.distributed.all_gather_object(gathered, own)
    return next((each for each in gathered if each is not None), None)


def _damage(path: Path, rank: int, ranks: int) -> str | None:
    try:
        if not is_sharded(path):
            with path.open("rb") as file:
                if file.read(len(_ARCHIVE)) != _ARCHIVE:
                    return None  # not what torch writes, and without checksums: whoever reads it says so
                _check_archive(file, rank, ranks)
            return None
        read_manifest(path).check_sizes({each.name: each.stat().st_size for each in path.iterdir()})
        with (path / PLAIN_FILE).open("rb") as file:
            _check_archive(file, rank, ranks)
        for name, content in _shards(path, rank, ranks):
            try:
                _check_archive(io.BytesIO(content), 0, 1)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    return None


def _shards(folder: Path, rank: int, ranks: int) -> Iterator[tuple[str, bytes]]:
    """Every tensor as it is in the files, this process's share of them."""
    for place in ShardedCheckpoint(folder).places[rank::ranks]:
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            yield place.relative_path, file.read(place.length)


def _check_archive(file: IO[bytes], rank: int, ranks: int) -> None:
    """Hold this process's share of what is in an archive of torch against its checksums.

    Raises:
        ValueError: it is no archive, or something in it is not what was written.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist()[rank::ranks]:
                with archive.open(name) as content:  # compares the checksum at its end
                    while content.read(_CHUNK):
                        pass
    except OSError:
        raise
    except Exception as error:  # bytes of any kind make zipfile raise anything
        raise ValueError(f"it is cut off or altered ({error})") from error
