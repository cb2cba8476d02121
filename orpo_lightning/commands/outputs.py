"""Whether a file can be written where it is asked for, before anything is computed."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_file(option: str, path: Path | None) -> None:
    """Insist that a file can be written.

    Args:
        option: that asks for it.
        path: the file; None where it is not asked for.

    Raises:
        ValueError: there is no folder for it, it is a folder itself, or nothing can be written there.

    Example:
        >>> check_file("--csv", Path("nowhere/rows.csv"))
        Traceback (most recent call last):
        ValueError: --csv nowhere/rows.csv: there is no folder nowhere; accepted: a file in one that is there
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}; accepted: a file in one that is there")
    if path.is_dir():
        raise ValueError(f"{option} {path}: it is a folder; accepted: a file in it, such as {path / 'result'}")
    _try(option, path, path.parent, "a file in a folder that can be written to")


def check_folder(option: str, path: Path | None) -> None:
    """Insist that files can be written to a folder, which is made where it is not there.

    Args:
        option: that asks for it.
        path: the folder; None where it is not asked for.

    Raises:
        ValueError: it is a file, or nothing can be written there.
    """
    if path is None:
        return
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f"{option} {path}: {there} is a file; accepted: a folder, made if it is not there")
    _try(option, path, there, "a folder that can be written to, made if it is not there")


def _try(option: str, path: Path, folder: Path, accepted: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {path}: nothing can be written there ({error.strerror}); accepted: {accepted}"
        ) from error
