"""Log-probabilities on disk, kept by the content of the response they belong to.

A store is a folder of small files. A file is written once, under the hash of its content, by an atomic rename. So
any number of processes and runs may write at the same time without locks, also on a network file system; a file that
was cut off or altered no longer fits its name, and is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from orpo_lightning.ranks import from_all_ranks

_RECORD = struct.Struct("<16sd")
_SUFFIX = ".logps"


class ReferenceStore:
    """The log-probabilities of one model in one precision, nats.

    Args:
        folder: where the files are; made when the first is written.

    Example:
        >>> import tempfile
        >>> store = ReferenceStore(Path(tempfile.mkdtemp()))
        >>> store.write({b"k" * 16: -2.5})
        >>> store.read({b"k" * 16, b"other key 16 byt"})
        {b'kkkkkkkkkkkkkkkk': -2.5}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, keys: Collection[bytes]) -> dict[bytes, float]:
        """The values that are there of these keys; a damaged file is removed with a warning."""
        values: dict[bytes, float] = {}
        if not keys:
            return values
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # another process found it damaged and was faster
            if path.name != _name_of(content):
                warnings.warn(
                    f"{path} is damaged; it is removed, and the reference log-probabilities that were in it are "
                    "computed again",
                    stacklevel=2,
                )
                path.unlink(missing_ok=True)
                continue
            values.update((key, value) for key, value in _RECORD.iter_unpack(content) if key in keys)
        return values

    def write(self, values: Mapping[bytes, float]) -> None:
        """Add values, all or none."""
        if not values:
            return
        content = b"".join(_RECORD.pack(key, value) for key, value in sorted(values.items()))
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_whole(self.folder / _name_of(content), content)

    @contextmanager
    def filled_by_one(self, seconds: float) -> Iterator[None]:
        """Within it, no other process that asks for the same fills the store; a process that is killed lets go of it.

        The store does not need it: it spares two runs that begin at once from computing the same.

        Args:
            seconds: wait no longer for another one, and go on beside it; negative: wait to its end.
        """
        lock = FileLock(self.folder / ".filling.lock")
        with suppress(OSError):  # a timeout is one
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=seconds)
        try:
            yield
        finally:
            lock.release()


def remembered(folder: Path, identity: str | None, compute: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """The result of an expensive look at a model, from the folder if it has been looked at before.

    All processes of a group call this, and look together unless all of them know: each may have a folder of its own.

    Args:
        folder: where the results are kept.
        identity: what changes when the model does; None is never remembered.
        compute: looks at the model.
    """
    path = None if identity is None else folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    known: tuple[str, str] | None = None
    if path is not None:
        with suppress(OSError, ValueError):
            first, second = json.loads(path.read_text(encoding="utf-8"))
            known = first, second
    all_know = None not in from_all_ranks(known)
    if known is not None and all_know:
        return known
    found = compute()
    if path is None:
        return found
    with suppress(OSError):  # where it cannot be kept it is computed again, and no other process waits for this one
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(path, json.dumps(found).encode())
    return found


def _write_whole(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _name_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest() + _SUFFIX
