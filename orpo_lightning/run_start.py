"""Where a fit writes and what it goes on from: a folder of its own, or that of the run that it goes on with."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from orpo_lightning.run_folder import (
    BEST_CHECKPOINTS,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    DATA_REPORT_FILE,
    LAST_CHECKPOINT,
    MODEL_FOLDER,
    RECORD_FILE,
    WRITTEN_BY_FITS,
    check_model_folder,
    run_of,
)
from orpo_lightning.whole_folder import put_all_back

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
        is_new: whether no run had been in that folder.
        made: the folders around it that were made for it, the innermost first.
    """

    asked: Path
    folder: Path
    checkpoint: Path | None = None
    lock: BaseFileLock | None = field(default=None, compare=False)
    is_new: bool = False
    made: tuple[Path, ...] = field(default=(), compare=False)

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
        """Let others write there; a folder goes again where a fit ended before it had measured anything."""
        if self.lock is None:
            return
        os.environ.pop(_FOR_OTHER_RANKS, None)  # whatever this process starts from now on is no part of the run
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        in_vain = {_LOCK, CONFIG_FILE, DATA_REPORT_FILE, RECORD_FILE} if self.is_new else {_LOCK}
        is_empty = _LOCK in there and there <= in_vain
        if is_empty:
            for name in there:
                (self.folder / name).unlink()
        self.lock.release()
        if is_empty:
            with suppress(OSError):  # it is where somebody stands, or somebody has come
                for folder in (self.folder, *self.made):
                    folder.rmdir()


def start_of_fit(
    asked: Path, ckpt_path: str | None, say: Callable[[str], None], model_folder: str = MODEL_FOLDER
) -> RunStart:
    """The run folder and the checkpoint of a fit, by the process that is to write there.

    Without a checkpoint that is the folder asked for, or a numbered sibling where another run is or has begun, or
    anything else that a fit would write over. Two processes never get the same one. With ``last`` it is the folder
    asked for, so that a job can be started again by the same command. With a file it is the folder of that
    file's run, if it is the one asked for or a sibling, and has not gone on from there; else a new one.

    Args:
        asked: `trainer.default_root_dir`.
        ckpt_path: a file, ``last``, ``best`` or None.
        say: told in a sentence what a user may not expect.
        model_folder: the name in the run folder of the model that it leaves behind.

    Raises:
        ValueError: the checkpoint is not there, a numbered sibling has a later one, or the run folder or that of the
            model cannot be used; says what to do.
    """
    check_model_folder(model_folder)
    made = tuple(folder for folder in asked.parents if not folder.exists())
    if ckpt_path is None:
        start = _new(asked, model_folder)
        if start.folder != asked:
            say(f"{asked} holds another run; this one is in {start.folder}")
    elif ckpt_path == LAST:
        start = _last(asked, model_folder, say)
    else:
        start = _from(asked, ckpt_path, model_folder, say)
    os.environ[_FOR_OTHER_RANKS] = json.dumps([str(start.folder), start.checkpoint and str(start.checkpoint)])
    return replace(start, made=made)


def start_of_other_rank(asked: Path, ckpt_path: str | None) -> RunStart:
    """The same in the other processes of a run: what the first one found, if it has started them.

    Args:
        asked: `trainer.default_root_dir`.
        ckpt_path: a file, ``last``, ``best`` or None.
    """
    found = os.environ.get(_FOR_OTHER_RANKS)
    if found is None:  # started from outside, at the same moment
        return start_that_writes_nothing(asked, ckpt_path)
    folder, checkpoint = json.loads(found)
    return RunStart(asked, Path(folder), checkpoint and Path(checkpoint))


def start_that_writes_nothing(asked: Path, ckpt_path: str | None) -> RunStart:
    """The start of a process that needs no folder of its own.

    Args:
        asked: `trainer.default_root_dir`.
        ckpt_path: a file, ``last``, ``best`` or None.

    Raises:
        ValueError: the checkpoint is not there; ``last`` need not be.
    """
    if ckpt_path is None:
        return RunStart(asked, asked)
    return RunStart(asked, asked, (_named if ckpt_path == LAST else find_checkpoint)(asked, ckpt_path))


def find_checkpoint(run: Path, ckpt_path: str) -> Path:
    """The file that a user means, or folder where it is sharded.

    Args:
        run: the run folder of ``last`` and ``best``.
        ckpt_path: one of these, or a path.

    Raises:
        ValueError: it is not there, or a folder of another kind; names the checkpoints that are, the newest first.
    """
    named = _named(run, ckpt_path)
    if named is not None:
        return named
    path = Path(ckpt_path)
    if ckpt_path in (LAST, BEST):
        what, folders = "is not there", [run / CHECKPOINT_FOLDER]
    elif path.is_dir():
        what = "is the folder of a run" if (path / CHECKPOINT_FOLDER).is_dir() else "is a folder that is no checkpoint"
        folders = [path, path / CHECKPOINT_FOLDER, *sorted(path.glob(f"*/{CHECKPOINT_FOLDER}"))]
    else:
        what, folders = "is not there", [path.parent, path.parent / CHECKPOINT_FOLDER, run / CHECKPOINT_FOLDER]
    found = dict.fromkeys(file for folder in folders for file in folder.glob("*.ckpt"))
    newest = sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    there = f"there are, the newest first: {', '.join(map(str, newest))}" if newest else "there are none beside it"
    raise ValueError(f"ckpt_path = {ckpt_path} {what}; accepted: a checkpoint; {there}")


def _named(run: Path, ckpt_path: str) -> Path | None:
    path, folder = Path(ckpt_path), run / CHECKPOINT_FOLDER
    is_path = ckpt_path not in (LAST, BEST)
    put_all_back(path.parent if is_path else folder)  # a kill may have left there what it had moved out of the way
    if is_path:
        from orpo_lightning.sharded_checkpoint import is_sharded

        return path if path.is_file() or is_sharded(path) else None
    found = sorted(folder.glob(BEST_CHECKPOINTS), key=_step_of)
    if ckpt_path == LAST and (folder / LAST_CHECKPOINT).exists():
        return folder / LAST_CHECKPOINT
    return found[-1] if found else None  # a kill may come between the writing of the best and of the last


def _step_of(path: Path) -> int:
    digits = re.search(r"(\d+)\.ckpt$", path.name)
    return int(digits[1]) if digits else 0


def _steps_in(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint is of; -1 where it cannot be read, which is said when it is loaded."""
    import torch

    from orpo_lightning.sharded_checkpoint import PLAIN_FILE

    file = checkpoint / PLAIN_FILE if checkpoint.is_dir() else checkpoint
    try:
        return int(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # bytes of any kind make torch raise anything
        return -1


def _new(asked: Path, model_folder: str) -> RunStart:
    for folder in _siblings(asked):
        lock = None if _holds_run(folder, model_folder) else _lock(folder, seconds=0)
        if lock is None:
            continue
        if not _holds_run(folder, model_folder):
            return RunStart(asked, folder, lock=lock, is_new=True)
        lock.release()
    raise AssertionError("there is always another number")


def _last(asked: Path, model_folder: str, say: Callable[[str], None]) -> RunStart:
    """Go on with the run in a folder, or start it from the beginning where it has no checkpoint yet."""
    start = RunStart(asked, asked, lock=_owned(asked))  # before looking: who holds it may be about to save, or to end
    checkpoint = _named(asked, LAST)
    if checkpoint is not None:
        _refuse_later_sibling(start, checkpoint)
        return replace(start, checkpoint=checkpoint)
    if (asked / model_folder).exists():
        start.end()
        raise ValueError(
            f"ckpt_path = 'last': {asked} holds a run that has ended, and no checkpoint of it; name another "
            "trainer.default_root_dir, or leave --ckpt_path out for a numbered sibling"
        )
    others = sorted(path.name for path in (asked / CHECKPOINT_FOLDER).glob("*.ckpt"))
    there = f" ({', '.join(others)} can be named by its path)" if others else ""
    say(f"no {LAST_CHECKPOINT} in {asked / CHECKPOINT_FOLDER} yet{there}: the run starts from the beginning in {asked}")
    return start


def _refuse_later_sibling(start: RunStart, checkpoint: Path) -> None:
    siblings = takewhile(Path.is_dir, islice(_siblings(start.asked), 1, None))
    others = [other for other in (_named(folder, LAST) for folder in siblings) if other is not None]
    newest = max([checkpoint, *others], key=lambda path: path.stat().st_mtime_ns)
    if newest != checkpoint:
        start.end()
        raise ValueError(
            f"ckpt_path = 'last': the run in {run_of(newest)} is later than that in {start.asked}; name the checkpoint "
            f"to go on from: --ckpt_path {newest}, or --ckpt_path {checkpoint}"
        )


def _from(asked: Path, ckpt_path: str, model_folder: str, say: Callable[[str], None]) -> RunStart:
    """Go on from a checkpoint that is named: in the folder of its run, unless that run is another or has gone on."""
    checkpoint = find_checkpoint(asked, ckpt_path)
    run = run_of(checkpoint)
    further = ""
    if _is_sibling(run, asked):
        run = asked if run.resolve() == asked.resolve() else run
        start = RunStart(asked, run, lock=_owned(run))
        try:
            checkpoint = find_checkpoint(asked, ckpt_path)  # who held the lock may have replaced it
        except ValueError:
            start.end()
            raise
        newest = _named(run, LAST)
        there = -1 if newest is None else _steps_in(newest)
        if there <= _steps_in(checkpoint):
            if run != asked:
                say(f"the run in {run} goes on there")
            return replace(start, checkpoint=checkpoint)
        start.end()
        further = f", which has gone on to step {there}"
    start = _new(asked, model_folder)
    say(
        f"{checkpoint} is of the run in {run}{further}; this one goes on from there in {start.folder}, and leaves that "
        "alone"
    )
    return replace(start, checkpoint=checkpoint)


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


def _holds_run(folder: Path, model_folder: str) -> bool:
    """Whether a fit would write over something there."""
    return any((folder / name).exists() for name in (*WRITTEN_BY_FITS, model_folder)) or any(
        (folder / CHECKPOINT_FOLDER).glob("*.ckpt")
    )


def _owned(folder: Path) -> BaseFileLock:
    lock = _lock(folder, _SECONDS_TO_GO)
    if lock is None:
        raise ValueError(f"another process is writing to {folder}; wait until it has ended, then go on with the run")
    return lock


def _lock(folder: Path, seconds: float) -> BaseFileLock | None:
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds, poll_interval=0.1)
    except Timeout:
        return None
    except OSError as error:
        raise ValueError(
            f"trainer.default_root_dir = {folder} cannot be used: {error.strerror}; accepted: a folder that can be "
            "made and written to"
        ) from error
    return lock
