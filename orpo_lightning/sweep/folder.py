"""The folder of a sweep: the file it is of, what it was started with, a folder for each trial, and the results."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from orpo_lightning.sweep.command import options_of
from orpo_lightning.sweep.file import Sweep, read_sweep
from orpo_lightning.whole_file import whole_file

DEFAULT_SWEEPS = Path("runs/sweeps")
"""Holds the folders of sweeps that are asked for nowhere else."""
_FILE, _START, _LOCK = "sweep.yaml", "start.json", ".sweep.lock"


@dataclass(frozen=True)
class Start:
    """What a sweep was started with, besides its file.

    Args:
        seed: of the choice of parameters.
        options: of the fits, after those of the file.
    """

    seed: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class SweepFolder:
    """A folder that one process writes into.

    Args:
        path: the folder.
        start: what the sweep was started with.
        lock: held as long as the process writes there.
    """

    path: Path
    start: Start
    lock: BaseFileLock

    @property
    def trials(self) -> Path:
        """Holds a folder for each trial."""
        return self.path / "trials"


def new_folder(asked: Path, file: Path, start: Start) -> SweepFolder:
    """A folder for a new sweep: the one asked for, or a numbered sibling where anything is.

    Args:
        asked: the folder.
        file: of the sweep; a copy is kept.
        start: what it is started with.

    Raises:
        ValueError: it cannot be made.
    """
    for number in count(1):
        path = asked if number == 1 else asked.with_name(f"{asked.name}-{number}")
        if path.exists() and not path.is_dir():
            raise ValueError(f"--out {path} is a file; accepted: a folder, which is made where there is none")
        if path.exists() and not _is_free(path):
            continue
        lock = _locked(path)
        if lock is None:
            continue
        if _is_free(path):
            shutil.copyfile(file, path / _FILE)
            text = json.dumps(asdict(start), indent=2)
            with whole_file(path / _START) as unfinished:
                unfinished.write_text(f"{text}\n", encoding="utf-8")
            return SweepFolder(path, start, lock)
        lock.release()
    raise AssertionError("there is always another number")


def resumed_folder(path: Path, file: Path, sweep: Sweep, options: Sequence[str], seed: int | None) -> SweepFolder:
    """The folder of a sweep that goes on.

    Args:
        path: the folder.
        file: of the sweep, where it is now.
        sweep: what is in that file.
        options: of the fits.
        seed: None: the one it was started with.

    Raises:
        ValueError: no sweep is there, or another one, or another process works on it; names what is different.
    """
    if not (path / _START).is_file():
        others = [str(each.parent) for each in sorted(path.parent.glob(f"*/{_START}"))]
        there = f"there are: {', '.join(others)}" if others else "leave --resume out to start one"
        raise ValueError(f"--resume: no sweep is in {path}; {there}")
    start = _read_start(path / _START)
    if not (path / _FILE).is_file():
        raise ValueError(
            f"--resume: {path / _FILE} is missing; put it back, or leave --resume out to start another sweep"
        )
    before = read_sweep(path / _FILE)
    different = [f"{key} of {file}" for key in sweep.differences(before)]
    if seed not in (None, start.seed):
        different.append(f"--seed {seed} (it was {start.seed})")
    if tuple(options) != start.options:
        different += _changed_options(start.options, options) or ["the order of the options"]
    if different:
        raise ValueError(
            f"--resume: the sweep in {path} was started with other settings: {', '.join(different)}; set them back, or "
            "leave --resume out to start another sweep"
        )
    lock = _locked(path)
    if lock is None:
        raise ValueError(f"--resume: another process works on the sweep in {path}; wait for it, or stop it")
    return SweepFolder(path, start, lock)


def own_file(name: str) -> Path | None:
    """The file that a sweep was started from, in its folder; None where there is no sweep.

    Args:
        name: perhaps of such a folder.
    """
    folder = Path(name).expanduser()
    return folder / _FILE if (folder / _START).is_file() else None


def folder_of(file: Path) -> Path | None:
    """The folder of the sweep whose own file this is; None where it is that of none."""
    return file.parent if file.name == _FILE and (file.parent / _START).is_file() else None


def only_folder(path: Path, again: Sequence[str]) -> Path:
    """The folder of a sweep that goes on and does not say which: there may be no numbered sibling.

    Args:
        path: the folder of the first sweep of its name.
        again: the command to go on, without the folder.

    Raises:
        ValueError: there are several; says the command for each.
    """
    numbered = re.compile(rf"{re.escape(path.name)}(-\d+)?")
    found = [each.parent for each in path.parent.glob(f"*/{_START}") if numbered.fullmatch(each.parent.name)]
    if len(found) < 2:
        return path
    commands = [
        shlex.join([*again, "--out", str(each)]) for each in sorted(found, key=lambda each: each.stat().st_mtime)
    ]
    raise ValueError(f"--resume: there are {len(found)} sweeps; say which, the latest last: {' | '.join(commands)}")


def _changed_options(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Options that are others than a sweep was started with, in words."""
    old, new = _values(before), _values(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} was {_said(old.get(name))}, is {_said(new.get(name))}" for name in names]


def _values(words: Sequence[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in options_of(words):
        values.setdefault(name, []).append(value)
    return values


def _said(values: Sequence[str] | None) -> str:
    return "not given" if values is None else " and ".join(values)


def _read_start(path: Path) -> Start:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Start(int(values["seed"]), tuple(map(str, values["options"])))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--resume: {path} is damaged ({error}); accepted: one that this program wrote; leave --resume out to "
            "start another sweep"
        ) from error


def _is_free(path: Path) -> bool:
    return {each.name for each in path.iterdir()} <= {_LOCK}


def _locked(path: Path) -> BaseFileLock | None:
    lock = FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise ValueError(
            f"--out {path} cannot be used: {error.strerror}; accepted: a folder that can be made"
        ) from error
    return lock
