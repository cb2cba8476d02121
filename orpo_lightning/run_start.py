"""Where a fit writes and what it goes on from: a folder of its own, or that of the run that it goes on with."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from orpo_lightning.run_folder import (
    BEST_CHECKPOINTS,
    CHECKPOINT_FOLDER,
    LAST_CHECKPOINT,
    METRICS_FILE,
    MODEL_FOLDER,
    run_of,
)

LAST, BEST = "last", "best"
_LOCK = ".run.lock"
_FOR_OTHER_RANKS = "ORPO_LIGHTNING_RUN"
_SECONDS_TO_GO = 15.0
"""How long processes of a run that was killed may take to end: loaders notice that their parent is gone."""


@dataclass(frozen=True)
class RunStart:
    """Where a fit writes, and what it goes on from.

    Args:
        asked: the folder that was asked for.
        folder: its run folder.
        checkpoint: the file that it goes on from; None starts at the beginning.
        lock: held as long as this process writes there; None in the other processes of a run.
    """

    asked: Path
    folder: Path
    checkpoint: Path | None = None
    lock: BaseFileLock | None = field(default=None, compare=False)

    def command_to_go_on(self, words: Sequence[str]) -> str:
        """What to type to go on with the run.

        Args:
            words: what was typed after the name of the command.

        Example:
            >>> RunStart(Path("runs/orpo"), Path("runs/orpo-2")).command_to_go_on(["fit", "--ckpt_path=last"])
            'orpo-lightning fit --ckpt_path runs/orpo-2/checkpoints/last.ckpt'
        """
        kept = list(words)
        for i in range(len(kept) - 1, -1, -1):
            if kept[i] == "--ckpt_path" or kept[i].startswith("--ckpt_path="):
                del kept[i : i + (1 if "=" in kept[i] else 2)]
        last = LAST if self.folder == self.asked else str(self.folder / CHECKPOINT_FOLDER / LAST_CHECKPOINT)
        return shlex.join(["orpo-lightning", *kept, "--ckpt_path", last])

    def end(self) -> None:
        """Let others write there; a folder that nothing was written to goes."""
        if self.lock is None:
            return
        empty = self.folder.is_dir() and {path.name for path in self.folder.iterdir()} == {_LOCK}
        if empty:
            (self.folder / _LOCK).unlink()
        self.lock.release()
        if empty:
            with suppress(OSError):  # it is where somebody stands, or somebody has come
                self.folder.rmdir()


def start_of_fit(asked: Path, ckpt_path: str | None, say: Callable[[str], None]) -> RunStart:
    """The run folder and the checkpoint of a fit, by the process that is to write there.

    Without a checkpoint that is the folder asked for, or a numbered sibling where another run is or has begun. Two
    processes never get the same one. With ``last`` it is the folder asked for in any case, so that a job can be started
    again by the same command; with a file it is the folder of that file's run, if it is the one asked for or a sibling.

    Args:
        asked: `trainer.default_root_dir`.
        ckpt_path: a file, ``last``, ``best`` or None.
        say: told in a sentence what a user may not expect.

    Raises:
        FileNotFoundError: the checkpoint is not there.
        ValueError: the run folder cannot be used; says what to do.
    """
    if ckpt_path is None:
        start = _new(asked)
        if start.folder != asked:
            say(f"{asked} holds another run; this one is in {start.folder}")
    elif ckpt_path == LAST and find_checkpoint(asked, LAST) is None:
        start = _again(asked, say)
    else:
        start = _further(asked, find_checkpoint(asked, ckpt_path, needed=True), say)
    os.environ[_FOR_OTHER_RANKS] = json.dumps([str(start.folder), start.checkpoint and str(start.checkpoint)])
    return start


def start_of_other_rank(asked: Path, ckpt_path: str | None) -> RunStart:
    """The same in the other processes of a run: what the first one found, if it has started them.

    Args:
        asked: `trainer.default_root_dir`.
        ckpt_path: a file, ``last``, ``best`` or None.
    """
    found = os.environ.get(_FOR_OTHER_RANKS)
    if found is None:  # started from outside, at the same moment
        return RunStart(asked, asked, find_checkpoint(asked, ckpt_path) if ckpt_path else None)
    folder, checkpoint = json.loads(found)
    return RunStart(asked, Path(folder), checkpoint and Path(checkpoint))


def find_checkpoint(run: Path, ckpt_path: str, *, needed: bool = False) -> Path | None:
    """The file that a user means.

    Args:
        run: the run folder of ``last`` and ``best``.
        ckpt_path: one of these, or a path.
        needed: whether there must be one.

    Raises:
        FileNotFoundError: it is needed, and not there.
    """
    if ckpt_path not in (LAST, BEST):
        path = Path(ckpt_path)
        found = [path] if path.exists() else []
    else:
        folder = run / CHECKPOINT_FOLDER
        found = sorted(folder.glob(BEST_CHECKPOINTS), key=_step_of)
        if ckpt_path == LAST:  # a kill may come between the writing of the best and of the last
            found += [folder / LAST_CHECKPOINT] if (folder / LAST_CHECKPOINT).exists() else []
    if needed and not found:
        where = f" in {run / CHECKPOINT_FOLDER}" if ckpt_path in (LAST, BEST) else ""
        raise FileNotFoundError(
            f"ckpt_path = {ckpt_path!r}: there is no such checkpoint{where}; accepted: a .ckpt file, or last or best "
            "of the run in trainer.default_root_dir"
        )
    return found[-1] if found else None


def _step_of(path: Path) -> int:
    digits = re.search(r"(\d+)\.ckpt$", path.name)
    return int(digits[1]) if digits else 0


def _new(asked: Path) -> RunStart:
    for folder in _siblings(asked):
        lock = None if _holds_run(folder) else _lock(folder, seconds=0)
        if lock is None:
            continue
        if not _holds_run(folder):
            return RunStart(asked, folder, lock=lock)
        lock.release()
    raise AssertionError("there is always another number")


def _again(asked: Path, say: Callable[[str], None]) -> RunStart:
    """Start a run from the beginning in a folder that holds no checkpoint yet."""
    if (asked / MODEL_FOLDER).exists():
        raise ValueError(
            f"ckpt_path = 'last': {asked} holds a run that has ended, and no checkpoint of it; name another "
            "trainer.default_root_dir, or leave --ckpt_path out for a numbered sibling"
        )
    others = sorted(path.name for path in (asked / CHECKPOINT_FOLDER).glob("*.ckpt"))
    there = f" ({', '.join(others)} can be named by its path)" if others else ""
    say(f"no {LAST_CHECKPOINT} in {asked / CHECKPOINT_FOLDER} yet{there}: the run starts from the beginning in {asked}")
    return RunStart(asked, asked, lock=_owned(asked))


def _further(asked: Path, checkpoint: Path | None, say: Callable[[str], None]) -> RunStart:
    assert checkpoint is not None
    run = run_of(checkpoint)
    if not _is_sibling(run, asked):
        start = _new(asked)
        say(
            f"{checkpoint} is of the run in {run}; this one goes on from there in {start.folder}, and leaves that alone"
        )
        return replace(start, checkpoint=checkpoint)
    if run.resolve() == asked.resolve():
        run = asked
    else:
        say(f"the run in {run} goes on there")
    return RunStart(asked, run, checkpoint, _owned(run))


def _siblings(asked: Path) -> Iterator[Path]:
    yield asked
    number = 1
    while True:
        number += 1
        yield asked.with_name(f"{asked.name}-{number}") if asked.name else Path(f"run-{number}")


def _is_sibling(run: Path, asked: Path) -> bool:
    run, asked = run.resolve(), asked.resolve()
    return run == asked or (
        run.parent == asked.parent and bool(re.fullmatch(re.escape(asked.name) + r"-\d+", run.name))
    )


def _holds_run(folder: Path) -> bool:
    return (folder / METRICS_FILE).exists() or any((folder / CHECKPOINT_FOLDER).glob("*.ckpt"))


def _owned(folder: Path) -> BaseFileLock:
    lock = _lock(folder, _SECONDS_TO_GO)
    if lock is None:
        raise ValueError(f"another process is writing to {folder}; wait until it has ended, then go on with the run")
    return lock


def _lock(folder: Path, seconds: float) -> BaseFileLock | None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.1)
    except Timeout:
        return None
    return lock
