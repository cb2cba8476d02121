"""Names of models, and the ordinary folders that they stand for.

A short name is a model that comes with an installable package or is made on the spot; a checkpoint is exported; both
become folders in the cache once. A run folder stands for its ``model``, or for its newest checkpoint if that is newer.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from pathlib import Path

from orpo_lightning.cache_folder import cache_folder, made_once
from orpo_lightning.models.hub import MARKERS, why_not_on_hub
from orpo_lightning.models.short_names import HUB_IDS, SHORT_NAMES, SMOLLM2_HELP, folder_of_short_name
from orpo_lightning.sharded_checkpoint import is_sharded
from orpo_lightning.versions import PACKAGE

_COMMIT = re.compile("[0-9a-f]{40}")
ADAPTER_FILE = "adapter_config.json"


def resolve(name_or_path: str, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """The folder that a name stands for, made on first use where it is a short name or a checkpoint; or a hub id.

    Args:
        name_or_path: a short name, a model folder, a run folder, a checkpoint file or a hub id.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: whether to run code that comes with the base model of a checkpoint.

    Raises:
        ModuleNotFoundError: the package that holds the model is not installed.
        FileNotFoundError: nothing of this name is here or on the hub; says what was looked for.
        ValueError: the argument is a file that is no checkpoint of this package.
    """
    if name_or_path in SHORT_NAMES:
        return str(folder_of_short_name(name_or_path))
    path = Path(name_or_path).expanduser()
    checkpoint = checkpoint_of(name_or_path)
    if checkpoint is not None:
        return _folder_of_checkpoint(checkpoint, trust_remote_code)
    if path.is_dir():
        folder = _model_folder(path)
        if folder is None:
            raise FileNotFoundError(
                f"no model in {name_or_path!r}: neither {', '.join(MARKERS)} (a model folder) nor model/ or "
                "checkpoints/*.ckpt (the folder of a run)"
            )
        return str(folder)
    # a hub id has at most one slash
    is_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or path.suffix == ".ckpt"
    reason = None if is_path else why_not_on_hub(name_or_path, revision)
    if is_path or reason:
        searched = f"nothing is there; short names: {', '.join(SHORT_NAMES)}"
        raise FileNotFoundError(
            f"no model at {name_or_path!r}: {searched}" + (f"; as a hub id: {reason}" if reason else "")
        )
    return name_or_path


def checkpoint_of(name_or_path: str) -> Path | None:
    """The checkpoint that a name stands for: a file, or the newest one of a run that has no later model; else None."""
    path = Path(name_or_path).expanduser()
    if name_or_path in SHORT_NAMES or not path.exists():
        return None
    if not path.is_dir() or is_sharded(path):
        return path
    folder, checkpoint = _model_folder(path), newest_checkpoint(path)
    return None if folder and not (checkpoint and _has_gone_on(checkpoint, folder)) else checkpoint


def _has_gone_on(checkpoint: Path, model: Path) -> bool:
    """Whether a checkpoint is of a later step than the model folder of its run, or was written later."""
    # both come back here for the names that they hold
    from orpo_lightning.models.card import steps_of
    from orpo_lightning.models.checkpoint import read_checkpoint

    steps = steps_of(model)
    return _written(checkpoint) > _written(model) if steps is None else read_checkpoint(checkpoint).steps > steps


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that was written last in a run folder."""
    found = [path for pattern in ("*.ckpt", "checkpoints/*.ckpt") for path in run.glob(pattern)]
    return max(found, key=lambda path: (_written(path), path.name), default=None)


def _written(path: Path) -> int:
    """When a file, or the last file of a folder, was written."""
    files = path.iterdir() if path.is_dir() else (path,)
    return max((file.stat().st_mtime_ns for file in files), default=0)


def absolute(name_or_path: str) -> str:
    """A name that means the same in every working directory."""
    path = Path(name_or_path).expanduser()
    return str(path.resolve()) if name_or_path not in SHORT_NAMES and path.exists() else name_or_path


def lasting_name(name_or_path: str, revision: str | None = None) -> str:
    """What others call a model: its hub id, else a folder that they can read; the name as given where there is none.

    Args:
        name_or_path: as in :func:`resolve`.
        revision: branch, tag or commit of a hub id.
    """
    if name_or_path in SHORT_NAMES:
        return HUB_IDS.get(name_or_path, name_or_path)
    folder = Path(resolve(name_or_path, revision))
    # what is in the cache may be gone tomorrow
    return absolute(name_or_path if folder.is_relative_to(cache_folder()) else str(folder))


def base_of_adapter(folder: str) -> tuple[str, str | None] | None:
    """The model that an adapter in a folder was trained on, and its revision; None where the folder holds a model.

    Raises:
        FileNotFoundError: the base model is neither here nor on the hub.
        ValueError: the folder does not name one.
    """
    path = Path(folder)
    if not (path / ADAPTER_FILE).is_file() or (path / "config.json").is_file():
        return None
    settings = json.loads((path / ADAPTER_FILE).read_text(encoding="utf-8"))
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    where = f"base_model_name_or_path in {path / ADAPTER_FILE}"
    if not name or absolute(name) == absolute(folder):
        raise ValueError(f"{where} is {name!r}; accepted: the folder or hub id of the model that it was trained on")
    short = next((short for short, hub_id in HUB_IDS.items() if hub_id == name), name)
    for known in (short, name):
        try:
            resolve(known, revision)
        except ModuleNotFoundError:
            continue  # then from the hub
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapter in {folder!r} needs the model that it was trained on, which is not found: {error}; name "
                f"it by {where}"
            ) from error
        return known, revision
    raise FileNotFoundError(f"the adapter in {folder!r} needs the model {name!r}: {SMOLLM2_HELP}")


def _model_folder(path: Path) -> Path | None:
    """A model folder itself, or that of a run."""
    folders = (path, path / "model")
    return next((each for each in folders if any((each / marker).is_file() for marker in MARKERS)), None)


def _folder_of_checkpoint(path: Path, trust_remote_code: bool) -> str:
    # a checkpoint may start from another one, so that reading it comes back here
    from orpo_lightning.models.checkpoint import export_checkpoint, read_checkpoint

    stat = path.stat()
    # another version may write the same checkpoint in another way
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {importlib.metadata.version(PACKAGE)}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]

    def export(folder: Path) -> None:
        export_checkpoint(read_checkpoint(path, trust_remote_code), folder)

    return str(made_once(f"checkpoint-{key}", export))


def identity_of(name_or_path: str, revision: str | None = None) -> str | None:
    """What changes when a model does, without a look at its weights; None where only they can tell.

    Of a local model the names, sizes and times of its files. Of a hub id its commit; a branch or tag may move.

    Args:
        name_or_path: as in :func:`resolve`.
        revision: branch, tag or commit of a hub id.
    """
    folder = Path(resolve(name_or_path, revision))
    if not folder.is_dir():
        return f"{name_or_path} {revision}" if revision and _COMMIT.fullmatch(revision) else None
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    base = base_of_adapter(str(folder))
    below = identity_of(*base) if base else ""
    return None if below is None else f"{folder.resolve()} {files} {below}".rstrip()
