"""A checkpoint that is named on the command line: whether it is there, and what has changed since its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from orpo_lightning.command_line.config_files import as_typed
from orpo_lightning.run_folder import config_of

_WORDS = ("last", "best", "hpc")
_WITHOUT_EFFECT = ("data.num_workers", "data.max_tokens_per_batch")


def check_checkpoint(name: str, run: Path) -> None:
    """Insist that a checkpoint is there.

    Args:
        name: what was asked for: a path, or a word that the trainer knows.
        run: the folder of the run.

    Raises:
        ValueError: it is not there, or is the folder of a run; names the checkpoints that are, the newest first.
    """
    path = Path(name).expanduser()
    if name in _WORDS or name.startswith("registry:") or path.is_file():
        return
    if path.is_dir() and not (path / "checkpoints").is_dir():  # sharded
        return
    folders = (
        [path / "checkpoints"] if path.is_dir() else [path.parent, path.parent / "checkpoints", run / "checkpoints"]
    )
    found = [file for folder in dict.fromkeys(folders) for file in folder.glob("*.ckpt")]
    newest = sorted(dict.fromkeys(found), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    there = f"there are, the newest first: {', '.join(map(str, newest))}" if newest else "there are none beside it"
    what = "is the folder of a run" if path.is_dir() else "is not there"
    raise ValueError(f"ckpt_path = {name} {what}; accepted: a checkpoint; {there}")


def changes_since(checkpoint: Path, config: str) -> Iterator[str]:
    """A sentence for each setting of the module and the data that the run of a checkpoint had otherwise.

    Args:
        checkpoint: in the folder of its run, or in ``checkpoints`` there.
        config: the settings now, as YAML.
    """
    folder = checkpoint.expanduser().resolve().parent
    saved = config_of(folder.parent if folder.name == "checkpoints" else folder)
    if saved is None:
        return
    before, now = (dict(_settings(yaml.safe_load(text))) for text in (saved, config))
    for key in dict.fromkeys([*now, *before]):
        value, old = now.get(key), before.get(key)
        if value != old and key not in _WITHOUT_EFFECT:
            yield f"resumes with {key} = {_shown(value)} (the run had {_shown(old)})"


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for block in ("model", "data"):
        yield from _leaves(config.get(block), block)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")
    else:
        yield as_typed(key), value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
