"""Files that are there whole or not at all, whenever a process is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what then takes its name at once, in the place of what had it; the folder is made.

    Where writing fails, what had the name keeps it, and nothing is left. Of several that write at once the last counts.

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
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
