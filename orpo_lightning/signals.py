"""Signals that ask a process to end. Imports nothing that takes time, so that they are answered from the start."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from orpo_lightning.secrets import hide

AGAIN = 75
"""Exit code of a fit that was stopped and saved (EX_TEMPFAIL): the same command with ``--ckpt_path last`` goes on."""

_MOMENT_S = 0.05
_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def exit_code(number: int) -> int:
    """The exit code of a fit that a signal has stopped, when it has saved: that of Ctrl-C stays its own.

    Example:
        >>> exit_code(signal.SIGTERM), exit_code(signal.SIGUSR1), exit_code(signal.SIGINT)
        (75, 75, 130)
    """
    return 130 if number == signal.SIGINT else AGAIN


def unsaved_exit_code(number: int) -> int:
    """The ordinary exit code of a process that a signal has ended.

    Example:
        >>> unsaved_exit_code(signal.SIGTERM)
        143
    """
    return 128 + number


def was_stopped(code: int) -> bool:
    """Whether the code of a process says that a signal of those that ask it to end has ended it.

    Args:
        code: its exit code; negative: the signal that ended it.

    Example:
        >>> [was_stopped(code) for code in (AGAIN, 130, 143, -signal.SIGTERM)], was_stopped(-signal.SIGKILL)
        ([True, True, True, True], False)
    """
    return any(code in (exit_code(number), unsaved_exit_code(number), -number) for number in _STOPPING)


def name_of(number: int) -> str:
    """What a user calls a signal.

    Example:
        >>> name_of(15), name_of(2)
        ('SIGTERM', 'Ctrl-C')
    """
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopSignals:
    """Notes signals while they are listened to, so that a step can be finished; a second Ctrl-C ends the process.

    Args:
        answer: said when a signal comes: what happens now.
    """

    def __init__(self, answer: str = "the run saves after this step and stops") -> None:
        self.answer = answer
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Note signals from now on; one that should have ended the process before does so now."""
        _end_if_dropped()
        self.received = 0
        self._before = _set(dict.fromkeys(_STOPPING, self._note))

    def end_at_once(self, end: Callable[[int], None]) -> None:
        """Have signals end the process from now on: there is no step to be finished any more.

        Args:
            end: told the signal; raises what ends the process.
        """
        _set(dict.fromkeys(_STOPPING, _where_it_counts(end)))

    def stop_listening(self) -> None:
        """Leave them to whom they were left before."""
        _set(self._before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.received = self.received or number
        say(f"{name_of(number)}: {self.answer} (Ctrl-C stops it at once)")


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within it, a signal ends the process with a line and its ordinary exit code."""
    _dropped.clear()
    before = _set(dict.fromkeys(_STOPPING, _where_it_counts(_end)))
    try:
        yield
        _end_if_dropped()
    finally:
        _set(before)


def _where_it_counts(end: Callable[[int], None]) -> Callable[[int, FrameType | None], None]:
    """A handler that ends the process, a moment later if a finalizer runs: Python drops what is raised in those."""

    def handle(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_name == "__del__":
                threading.Timer(_MOMENT_S, os.kill, (os.getpid(), number)).start()
                return
            frame = frame.f_back
        end(number)

    return handle


def _end(number: int) -> NoReturn:
    _dropped.append(number)
    say(f"stopped by {name_of(number)} outside of training: there was nothing to save")
    raise SystemExit(unsaved_exit_code(number))


_dropped: list[int] = []
"""Signals that should have ended the process: whoever imports a module may drop what is raised amid the import."""


def _end_if_dropped() -> None:
    if _dropped:
        raise SystemExit(unsaved_exit_code(_dropped[0]))


def _set(handlers: Mapping[signal.Signals, Any]) -> dict[signal.Signals, Any]:
    """Set handlers; returns those that were there."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # others may not
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


def say(line: str) -> None:
    """Print a line amid whatever is being printed: what interrupts a print cannot print itself."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, f"\norpo-lightning: {hide(line)}\n".encode())
