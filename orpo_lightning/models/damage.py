"""Files of a model that cannot be read, named in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

# what transformers and peft read
_SETTINGS = (
    *("config.json", "adapter_config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("special_tokens_map.json", "added_tokens.json", "*.index.json"),
)
_UNREADABLE = (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, EOFError)


class DamagedFileError(ValueError):
    """A file of a model is not what it has to be."""


@contextmanager
def naming_damage(what: str, folder: str) -> Iterator[None]:
    """Say in one line which file is damaged, where reading a model, an adapter or a tokenizer fails on one.

    Args:
        what: what is read.
        folder: where its files are, or its hub id.

    Raises:
        DamagedFileError: a file is damaged, or a pickle of more than tensors.
    """
    try:
        yield
    except (DamagedFileError, FileNotFoundError, ImportError, MemoryError):  # they say what is wrong themselves
        raise
    except pickle.UnpicklingError as error:
        raise DamagedFileError(
            f"the weights of {what} are a pickle file that cannot be read as tensors alone, and to read it in another "
            "way could run any code; accepted: safetensors, or .bin with nothing but tensors"
        ) from error
    except Exception as error:  # the libraries raise anything at all on files that they do not expect
        file = damaged_file(Path(folder))
        # torch has no error of its own for a zip archive that is not whole
        if file is None and not isinstance(error, _UNREADABLE) and "PytorchStreamReader" not in str(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedFileError(
            f"{what} cannot be read: {file or 'a file of it'} is damaged or not whole ({reason}); copy or download it "
            "again"
        ) from error


def damaged_file(folder: Path) -> Path | None:
    """The first file of a folder that is not what its name says, JSON of an object or safetensors; None if all are."""
    settings = (path for pattern in _SETTINGS for path in sorted(folder.glob(pattern)))
    damaged = (path for path in settings if not _is_object(path))
    return next(damaged, None) or next(
        (path for path in sorted(folder.glob("*.safetensors")) if not _opens(path)), None
    )


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False


def _opens(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except SafetensorError:
        return False
