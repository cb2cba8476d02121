"""Whether a checkpoint that is named on the command line is there."""

from __future__ import annotations

from pathlib import Path

from orpo_lightning.run_folder import CHECKPOINT_FOLDER
from orpo_lightning.run_start import BEST, LAST


def check_checkpoint(name: str, run: Path) -> None:
    """Insist that a checkpoint is there.

    Args:
        name: what was asked for: a path, or last or best.
        run: the folder of the run.

    Raises:
        ValueError: it is not there, or is the folder of a run; names the checkpoints that are, the newest first.
    """
    path = Path(name).expanduser()
    if name in (LAST, BEST) or path.is_file():
        return
    if path.is_dir() and not (path / CHECKPOINT_FOLDER).is_dir():  # sharded
        return
    folders = (
        [path / CHECKPOINT_FOLDER]
        if path.is_dir()
        else [path.parent, path.parent / CHECKPOINT_FOLDER, run / CHECKPOINT_FOLDER]
    )
    found = [file for folder in dict.fromkeys(folders) for file in folder.glob("*.ckpt")]
    newest = sorted(dict.fromkeys(found), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    there = f"there are, the newest first: {', '.join(map(str, newest))}" if newest else "there are none beside it"
    what = "is the folder of a run" if path.is_dir() else "is not there"
    raise ValueError(f"ckpt_path = {name} {what}; accepted: a checkpoint; {there}")
