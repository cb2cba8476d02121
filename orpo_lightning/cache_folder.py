"""Where everything is kept that is made once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE_VARIABLE = "ORPO_LIGHTNING_CACHE"


def cache_folder() -> Path:
    """Where everything is kept that is made once: models, tokenized rows, log-probabilities of references.

    $ORPO_LIGHTNING_CACHE, else orpo_lightning in the user's cache folder.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orpo_lightning"
    return Path(os.environ.get(CACHE_VARIABLE, default))


def made_in_cache(name: str) -> Path:
    """A folder of the cache, made where it is missing.

    Raises:
        ValueError: it cannot be made; says what to set.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache folder {folder} cannot be made ({error}): set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return folder


def made_once(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of a model in the cache, made by whoever asks for it first, whole or not at all.

    Args:
        name: its name; tells its content apart from any other.
        build: writes into the empty folder that it is given.
    """
    folder = made_in_cache("models") / name
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
    try:
        build(unfinished)
        unfinished.chmod(0o755)
        os.rename(unfinished, folder)
    except OSError:
        # another process was faster, and its folder is as good as ours
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
