"""Whether a checkpoint is what was written: torch reads one with altered bytes as if nothing were wrong."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from orpo_lightning.manifest import MANIFEST_FILE, Manifest, read_manifest
from orpo_lightning.ranks import fail_together, from_all_ranks, place_among_ranks, place_on_machine
from orpo_lightning.sharded_checkpoint import METADATA_FILE, PLAIN_FILE, ShardedCheckpoint, is_sharded

_CHUNK = 1 << 20
_ARCHIVE = b"PK"
"""What the archives of torch begin with."""


def check_whole(path: Path, wrong: str | None = None) -> None:
    """Insist that a checkpoint is whole before it is read; where it is not, name one beside it that is.

    Args:
        path: the checkpoint.
        wrong: what is known to be wrong with it; None looks.

    Raises:
        ValueError: it is damaged.
    """
    _check_whole(path, wrong, partial(_others, path), damage)


def check_whole_together(path: Path) -> None:
    """The same by all processes of a group, each of which looks at its share; all have to call this.

    A file is shared out over the processes of each machine, which may have a copy of its own; a folder, that machines
    have written together, over all.

    Args:
        path: the checkpoint; one that is not there is left to whoever reads it.

    Raises:
        ValueError: it is damaged, on all of them in the same words.
    """
    among_all, on_machine = place_among_ranks(), place_on_machine()

    def look(each: Path) -> str | None:
        def own() -> str | None:
            return damage(each, *(among_all if is_sharded(each) else on_machine))

        found = from_all_ranks(fail_together(own))
        return next((wrong for wrong in found if wrong is not None), None)

    def others() -> list[Path]:
        return from_all_ranks(fail_together(lambda: _others(path)))[0]

    if all(from_all_ranks(fail_together(path.exists))):
        _check_whole(path, None, others, look)


def _check_whole(
    path: Path, wrong: str | None, others: Callable[[], Iterable[Path]], look: Callable[[Path], str | None]
) -> None:
    wrong = wrong or look(path)
    if wrong is None:
        return
    whole = next((each for each in others() if each != path and look(each) is None), None)
    advice = f"whole is {whole}: take that one" if whole else "no other checkpoint beside it is whole"
    raise ValueError(f"{path} is damaged: {wrong}; {advice}")


def _others(path: Path) -> list[Path]:
    """The checkpoints in the folder of one, the newest first."""
    return sorted(path.parent.glob("*.ckpt"), key=lambda each: each.stat().st_mtime_ns, reverse=True)


def damage(path: Path, rank: int = 0, ranks: int = 1) -> str | None:
    """What is wrong with a checkpoint; None if it is whole.

    Every byte of the tensors is held against the checksum that is beside it.

    Args:
        path: a file, or the folder of one that is sharded.
        rank: which share of it to look at.
        ranks: into how many shares it is divided.
    """
    try:
        if not is_sharded(path):
            with path.open("rb") as file:
                if file.read(len(_ARCHIVE)) != _ARCHIVE:
                    return None  # not what torch writes, and without checksums: whoever reads it says so
                _check_archive(file, rank, ranks)
            return None
        manifest = read_manifest(path / MANIFEST_FILE, Manifest)
        sizes, checksums = manifest.sizes.keys(), manifest.checksums.keys()
        if not {METADATA_FILE, PLAIN_FILE} <= sizes or not {METADATA_FILE} <= checksums <= sizes:
            raise ValueError(
                f"{MANIFEST_FILE} has to hold sizes of {METADATA_FILE} and {PLAIN_FILE}, and a checksum of the former"
            )
        manifest.check_sizes({each.name: each.stat().st_size for each in path.iterdir()})
        for name, checksum in manifest.checksums.items():
            if zlib.crc32((path / name).read_bytes()) != checksum:
                raise ValueError(f"{name} has been altered")
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
