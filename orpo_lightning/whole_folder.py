"""Folders that are whole or not there, whenever a write of them ends."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import FileLock

_LOCK = "orpo_lightning.lock"
"""The mark of a hidden folder of ours. Whoever writes there holds it; when they are gone, whoever asks gets it."""

_MARK = ".orpo-lightning-"
_NEW, _OLD = "new", "old"
_CANNOT = {
    *(errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
    *(errno.EACCES, errno.EPERM, errno.EISDIR),
}
"""What systems say that bring no folder to the disk when asked, and of folders that cannot be opened to ask."""


@contextlib.contextmanager
def whole_folder(folder: Path, last: Collection[str] = ()) -> Iterator[Path]:
    """Where to write what then takes the place of a folder at once, so that it is whole or not there.

    That is in a hidden folder of ours. It has a name that nobody else has, and it takes up all that must move: ``new``
    until it is whole, and ``old``, what the new one replaces. It goes when the write ends, and ``old`` returns if its
    place is free then. After a kill it stays, under our lock, which nobody holds any more: the next write to the same
    place ends it in the same way. Nothing else beside the place is ever touched.

    Args:
        folder: its place, or a link to it; what is there is replaced. An empty folder is filled: it may be where a
            file system begins, which cannot be renamed, or where somebody stands.
        last: names of files that make the folder what it is; where it is filled they come last.

    Yields:
        The empty folder to write into.
    """
    folder = folder.resolve()  # "." has no name, and a link is to stay
    folder.parent.mkdir(parents=True, exist_ok=True)
    put_back(folder)
    fill = folder.is_dir() and not any(folder.iterdir())
    # inside, where beside may be another file system
    hidden = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder if fill else folder.parent))
    try:
        with FileLock(hidden / _LOCK):
            new = hidden / _NEW
            new.mkdir()
            yield new
            for path in new.rglob("*"):
                write_through(path)
            write_through(new)
            if fill:
                for path in sorted(new.iterdir(), key=lambda path: path.name in last):
                    os.rename(path, folder / path.name)
                write_through(folder)
            else:
                _exchange(new, folder, hidden)
    finally:
        _end(hidden, folder)


def take_place(new: Path, place: Path) -> None:
    """Rename a file that is whole into its place; where that is a folder, a kill in between leaves it to be put back.

    Args:
        new: a file.
        place: where to.
    """
    if not place.is_dir():
        os.replace(new, place)
        _settle(place)
        return
    hidden = Path(tempfile.mkdtemp(prefix=_prefix(place), dir=place.parent))
    try:
        with FileLock(hidden / _LOCK):
            _exchange(new, place, hidden)
    finally:
        _end(hidden, place)


def write_through(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk, where the system can: after a power cut they are there.

    Args:
        path: what was written, or where something was renamed.

    Raises:
        OSError: the disk does not take it.
    """
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def put_back(folder: Path) -> None:
    """End the writes to a place that a kill has left: what they were about to replace has its place again.

    Args:
        folder: the place.
    """
    for hidden in _left(folder):
        _end_if_left(hidden, folder)


def put_all_back(around: Path) -> None:
    """The same for all places in a folder.

    Args:
        around: the folder.
    """
    for hidden in around.glob(f".*{_MARK}*"):
        _end_if_left(hidden, around / hidden.name[1:].rpartition(_MARK)[0])


def is_free(folder: Path) -> bool:
    """Whether a write would replace nothing: nothing is there, or a folder that is empty but for what a kill left."""
    if not folder.is_dir():
        return not folder.exists()
    folder = folder.resolve()
    return set(folder.iterdir()) <= set(_left(folder))


def _exchange(new: Path, place: Path, hidden: Path) -> None:
    if place.exists():
        os.rename(place, hidden / _OLD)  # nothing can be renamed over a folder
    os.rename(new, place)
    try:
        _settle(place)
    except OSError:
        if (hidden / _OLD).exists():  # it has been on the disk for long, and returns
            os.rename(place, new)
        raise


def _settle(place: Path) -> None:
    """Have the name of what has its place on the disk.

    Raises:
        OSError: the disk does not take it, whatever it says: that of a disk that fails, as what is there may not last.
    """
    try:
        write_through(place.parent)
    except OSError as error:
        raise OSError(errno.EIO, f"{error.strerror} when it had its name already", str(place)) from error


def _prefix(folder: Path) -> str:
    return f".{folder.name}{_MARK}"


def _left(folder: Path) -> Iterator[Path]:
    """The hidden folders of all writes to a place that have not ended."""
    for around in (folder.parent, folder):
        found = around.glob(f"{glob.escape(_prefix(folder))}*")
        yield from filter(_is_ours, found)


def _is_ours(hidden: Path) -> bool:
    try:
        return (hidden / _LOCK).is_file()
    except PermissionError:  # another user is writing there
        return False


def _end_if_left(hidden: Path, folder: Path) -> None:
    if not _is_ours(hidden):
        return
    # who holds the lock while the place is empty and `old` is there fills it at once: to look before that is too early
    is_amid = not folder.exists() and (hidden / _OLD).exists()
    try:
        with FileLock(hidden / _LOCK, timeout=-1 if is_amid else 0):
            _return_old(hidden, folder)
    except OSError:  # somebody is writing there, or it is another user's, or somebody else has ended it
        return
    shutil.rmtree(hidden, ignore_errors=True)


def _end(hidden: Path, folder: Path) -> None:
    """End a write: put back what made room for a folder that did not take its place, and leave nothing else."""
    _return_old(hidden, folder)
    shutil.rmtree(hidden, ignore_errors=True)


def _return_old(hidden: Path, folder: Path) -> None:
    if not folder.exists():
        with contextlib.suppress(FileNotFoundError):  # nothing made room, or somebody has put it back
            os.rename(hidden / _OLD, folder)
