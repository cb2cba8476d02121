"""Files that are there whole or not at all, whenever a process is killed."""

from __future__ import annotations

import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what then takes its name at once, in the place of what had it; the folder is made.

    Where writing fails, what had the name keeps it, and nothing is left. Of several that write at once the last counts.
    What a killed process has left goes with the next writing.

    Args:
        path: the file.

    Yields:
        The place to write to, in the same folder.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "runs" / "notes.txt"
        >>> with whole_file(path) as unfinished:
        ...     _ = unfinished.write_text("all of it")
        >>> path.read_text(), [each.name for each in path.parent.iterdir()]
        ('all of it', ['notes.txt'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    unfinished = path.with_name(f"{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _machine() -> str:
    return f"{crc32(platform.node().encode()):08x}"


def _remove_left(path: Path) -> None:
    """Remove unfinished files of processes of this machine that are no more."""
    left = re.compile(rf"{re.escape(path.name)}\.{_machine()}-(\d+)-[0-9a-f]+\.part")
    for name in os.listdir(path.parent):
        found = left.fullmatch(name)
        if found and not _is_alive(int(found[1])):
            path.with_name(name).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # there, to ask is to end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
