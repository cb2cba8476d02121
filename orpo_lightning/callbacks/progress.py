"""How far a run is: a bar in a terminal, a line now and then in a file."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from datetime import timedelta
from math import ceil, isfinite
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import get_console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

_LINES = 20
"""About how many lines a run prints where there is no terminal."""
_RECENT = 20
"""Steps that the rate is a mean of."""
_SHORT = {"train/loss": "loss", "train/pref/accuracies": "acc", "train/pref/margins": "margin"}
_IN_BAR = ("loss", "acc")


class _CountColumn(ProgressColumn):
    """Steps or batches done, and all of them."""

    def render(self, task: Task) -> Text:
        return Text(_of(int(task.completed), None if task.total is None else int(task.total)))


class StepProgress(ProgressBar):
    """Shows the optimizer steps of the whole run, with loss, accuracy, rate and the time that is left.

    In a terminal it is a bar; elsewhere it prints a line about twenty times a run, and one after each validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_enabled = True
        self._progress: Progress | None = None
        self._handlers: list[logging.StreamHandler[Any]] = []
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._step = 0
        self._first_step = 0
        self._total: int | None = None
        self._started = 0.0
        self._last = 0.0
        self._durations: deque[float] = deque(maxlen=_RECENT)

    def enable(self) -> None:
        """Show it."""
        self._is_enabled = True

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self._is_enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count where the run stands."""
        self._step = self._first_step = trainer.global_step
        self._started = self._last = time.monotonic()
        self._durations.clear()
        steps = trainer.estimated_stepping_batches
        self._total = int(steps) if isfinite(steps) else None
        bar = self._bar()
        if bar is not None:
            self._training = bar.add_task(self._epoch(trainer), total=self._total, completed=self._step, text="")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the epoch."""
        if self._progress is not None and self._training is not None:
            self._progress.update(self._training, description=self._epoch(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on, where this was the last micro-batch of an optimizer step."""
        if not self._is_enabled or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        now = time.monotonic()
        self._durations.append(now - self._last)
        self._last = now
        if self._progress is not None and self._training is not None:
            shown = {name: value for name, value in _measures(trainer).items() if name in _IN_BAR}
            text = "  ".join([*_texts(shown or _others(trainer)), self._rate, self._left]).rstrip()
            self._progress.update(self._training, completed=self._step, text=text)
        elif self._is_due:
            words = [f"step {self._count}", *_texts(_measures(trainer) or _others(trainer))]
            self._say("  ".join([*words, self._rate, self._left]).rstrip())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it is, above what is printed next."""
        self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a second bar while it runs."""
        if trainer.sanity_checking:
            description, batches = "before training", trainer.num_sanity_val_batches
        else:
            description, batches = "validation", trainer.num_val_batches
        self._begin_evaluation(description, sum(batches))

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move on."""
        self._advance_evaluation()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the second bar away; without a terminal, say what was measured."""
        self._end_evaluation()
        self._last = time.monotonic()  # it is no part of a step
        if self._is_enabled and self._progress is None and trainer.state.fn == "fit":
            for name in _set_names(trainer):
                shown = {
                    label: float(trainer.callback_metrics[f"val/{name}pref/{measure}"])
                    for measure, label in (("accuracies", "acc"), ("margins", "margin"))
                }
                when = "before training" if trainer.sanity_checking else f"validation, step {self._count}"
                self._say("  ".join([when, *([name.rstrip("/")] if name else []), *_texts(shown)]))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for a validation."""
        self._begin_evaluation("test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move on."""
        self._advance_evaluation()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._end_evaluation()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _bar(self) -> Progress | None:
        console = get_console()
        if self._progress is None and self._is_enabled and (console.is_terminal or console.is_jupyter):
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                _CountColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[text]}", markup=False),
                console=console,
                expand=True,
            )
            stream = sys.stderr
            self._progress.start()
            # what is logged goes above the bar, not into it: the handlers hold the stream from before
            self._handlers = [each for each in _log_handlers() if each.stream is stream]
            for handler in self._handlers:
                handler.setStream(sys.stderr)
        return self._progress

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            for handler in self._handlers:
                handler.setStream(sys.stderr)
        self._progress = self._training = self._evaluation = None

    def _begin_evaluation(self, description: str, batches: float) -> None:
        bar = self._bar()
        if bar is not None:
            self._evaluation = bar.add_task(description, total=batches if isfinite(batches) else None, text="")

    def _advance_evaluation(self) -> None:
        if self._progress is not None and self._evaluation is not None:
            self._progress.advance(self._evaluation)

    def _end_evaluation(self) -> None:
        if self._progress is not None and self._evaluation is not None:
            self._progress.remove_task(self._evaluation)
        self._evaluation = None

    def _say(self, line: str) -> None:
        get_console().print(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def _is_due(self) -> bool:
        every = 50 if self._total is None else max(1, round(self._total / _LINES))
        return self._step % every == 0 or self._step in (self._first_step + 1, self._total)

    @property
    def _count(self) -> str:
        return _of(self._step, self._total)

    @property
    def _rate(self) -> str:
        seconds = sum(self._durations) / len(self._durations)
        return f"{seconds:.{3 if seconds < 1 else 2 if seconds < 10 else 1}f} s/step"

    @property
    def _left(self) -> str:
        done = self._step - self._first_step
        if self._total is None or not 0 < done < self._total - self._first_step:
            return ""
        # over the whole run, so that validations are in it
        seconds = (time.monotonic() - self._started) / done * (self._total - self._step)
        return f"{timedelta(seconds=round(seconds))} left"

    def _epoch(self, trainer: Trainer) -> str:
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        of_all = f"/{ceil(self._total / steps)}" if self._total and isfinite(steps) and steps else ""
        return f"epoch {trainer.current_epoch + 1}{of_all}"


def _of(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done}/{total}"


def _log_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    return [each for logger in loggers for each in logger.handlers if isinstance(each, logging.StreamHandler)]


def _measures(trainer: Trainer) -> dict[str, float]:
    """Those of a preference module that are worth a look, by short names."""
    values = trainer.callback_metrics
    return {short: float(values[name]) for name, short in _SHORT.items() if name in values}


def _set_names(trainer: Trainer) -> list[str]:
    """The validation sets with pairs: an empty name, or each name with a slash."""
    ends = ("pref/accuracies", "pref/margins")
    found = [
        {
            name.removeprefix("val/").removesuffix(end)
            for name in trainer.callback_metrics
            if name.endswith(end) and name.startswith("val/")
        }
        for end in ends
    ]
    return sorted(found[0] & found[1])


def _others(trainer: Trainer) -> dict[str, float]:
    """What another module wants to be shown, as far as there is room."""
    values = trainer.progress_bar_metrics
    return {name: float(value) for name, value in list(values.items())[:2] if not isinstance(value, str | dict)}


def _texts(values: dict[str, float]) -> list[str]:
    return [f"{name} {value:.2f}" if name == "acc" else f"{name} {_short(value)}" for name, value in values.items()]


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
