"""Runs a sweep: starts trials, follows what they log, ends those that are behind, and keeps what came of each."""

from __future__ import annotations

import difflib
import os
import time
from dataclasses import replace

from orpo_lightning.run_folder import METRICS_FILE
from orpo_lightning.signals import StopSignals, was_stopped
from orpo_lightning.sweep.file import Sweep
from orpo_lightning.sweep.folder import SweepFolder
from orpo_lightning.sweep.record import (
    Progress,
    State,
    Trial,
    is_over,
    read_progress,
    read_trials,
    reason_of_failure,
    total_steps,
    was_refused,
    write_trial,
)
from orpo_lightning.sweep.results import write_results
from orpo_lightning.sweep.share import cores, gpus_of_machine, share_of_worker
from orpo_lightning.sweep.suggest import suggest
from orpo_lightning.sweep.table import Row, View
from orpo_lightning.sweep.trial_process import TrialProcess
from orpo_lightning.sweep.words import words_of_trial

_POLL_S = 0.5
_REFUSED_ALIKE = 2
"""Trials from which on what was refused is taken for no mistake of one of them."""
_OF_TRAINING = ("model.objective.", "model.optimizer.", "model.schedule.", "seed_everything")
"""How the names of parameters begin that have no part in whether data and model are there."""


class Runner:
    """A sweep that runs or goes on.

    Args:
        sweep: the sweep.
        folder: its folder.
        size: how many trials there are to be, those that were run before included.
        workers: how many run at once.
        signals: what asks it to stop.

    Attributes:
        stopped: a trial that others than the sweep have asked to stop, with which the sweep has ended.
        refused: one of the first trials, which were refused alike before their fits began, so that the sweep has ended.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, size: int, workers: int, signals: StopSignals) -> None:
        self._sweep = sweep
        self._folder = folder
        self._size = size
        self._workers = workers
        self._signals = signals
        self._metric = sweep.metric.name if sweep.metric else None
        self._running: dict[int, TrialProcess] = {}
        self._cores, self._gpus = cores(), gpus_of_machine()
        self.stopped: Trial | None = None
        self.refused: Trial | None = None
        self._trials = {trial.number: trial for trial in read_trials(folder.trials)}
        self._progress = {
            number: read_progress(folder.trials / trial.name, self._metric, sweep.beside)
            for number, trial in self._trials.items()
        }
        self._refused: dict[int, str] = {}
        self._ended_now: set[int] = set()

    @property
    def trials(self) -> list[Trial]:
        """All of them up to now."""
        return [self._trials[number] for number in sorted(self._trials)]

    def run(self, view: View) -> None:
        """Run all trials, or those until a signal comes.

        Args:
            view: shows what is known.

        Raises:
            ValueError: a trial does not log the metric; names the nearest measure.
        """
        for trial in self.trials:
            self._check_metric(trial.number, is_over=is_over(self._folder.trials / trial.name))
        self._take_what_ended_alone()
        try:
            while True:
                is_refused = self._is_refused
                if self._signals.received or self.stopped or is_refused or not (self._running or self._waiting()):
                    self._stop_all()
                    if is_refused:
                        self._set_back()
                    break
                while len(self._running) < self._workers and self._waiting():
                    self._start()
                self._look()
                view.show(self._rows())
                time.sleep(_POLL_S)
        except BaseException:
            self._stop_all()
            raise
        view.show(self._rows())

    def _take_what_ended_alone(self) -> None:
        """A sweep that was killed may not have seen the end of a trial."""
        for trial in self.trials:
            if trial.goes_on and is_over(self._folder.trials / trial.name):
                self._keep(self._ended(trial, "complete"))

    def _waiting(self) -> bool:
        """Whether a trial is to be started or to go on."""
        if any(trial.goes_on and trial.number not in self._running for trial in self.trials):
            return True
        metric = self._sweep.metric
        is_reached = metric is not None and any(
            metric.is_reached(trial.value) for trial in self.trials if trial.state == "complete"
        )
        return len(self._trials) < self._size and not is_reached

    @property
    def _is_refused(self) -> bool:
        """Whether all further trials would be refused, as those before were that varied how they train alone."""
        varied = [name for name, each in self._sweep.parameters.items() if each.is_varied]
        return (
            len(self._refused) >= _REFUSED_ALIKE
            and set(self._refused) == self._ended_now
            and len(set(self._refused.values())) == 1
            and all(name.startswith(_OF_TRAINING) for name in varied)
        )

    def _start(self) -> None:
        left = [trial for trial in self.trials if trial.goes_on and trial.number not in self._running]
        trial = replace(left[0], state="running", reason="") if left else self._next()
        self._keep(trial)
        folder = self._folder.trials / trial.name
        words = words_of_trial(self._sweep, trial, folder, self._folder.start.options)
        taken = {process.worker for process in self._running.values()}
        worker = next(each for each in range(self._workers) if each not in taken)
        share = share_of_worker(worker, self._workers, os.environ, self._cores, self._gpus)
        self._running[trial.number] = TrialProcess(trial, folder, words, worker, share)

    def _next(self) -> Trial:
        number = len(self._trials)
        suggestion = suggest(self._sweep, self._folder.start.seed, number, self.trials)
        return Trial(number, suggestion.parameters, suggestion.drawn)

    def _look(self) -> None:
        """Take what has ended, and end what is behind."""
        for number, process in list(self._running.items()):
            code = process.code  # before what it has logged, which is then all of it
            before, self._progress[number] = self._progress[number], self._progress_of(process)
            self._trials[number] = self._with_progress(self._trials[number])
            if code is not None:
                del self._running[number]
                self._take(process, code)
            else:
                if self._progress[number] is before or self._progress[number].step > 0:  # its row is whole
                    self._check_metric(number, is_over=False)
                if not process.is_pruned and self._is_behind(number):
                    process.prune()

    def _is_behind(self, number: int) -> bool:
        rule, metric = self._sweep.early_termination, self._sweep.metric
        if rule is None or metric is None:
            return False
        histories = {
            other: [metric.sign * value for value in progress.history] for other, progress in self._progress.items()
        }
        return rule.stops(histories.pop(number), list(histories.values()))

    def _take(self, process: TrialProcess, code: int) -> None:
        if code == 0:
            self._check_metric(process.trial.number, is_over=True)
        trial = self._settle(process, code)
        if trial.state == "stopped":
            self.stopped = trial

    def _settle(self, process: TrialProcess, code: int) -> Trial:
        trial = self._outcome(process, code)
        self._keep(trial)
        self._ended_now.add(trial.number)
        if trial.state == "failed" and was_refused(process.folder, process.log_start):
            self._refused[trial.number] = trial.reason
        return trial

    def _outcome(self, process: TrialProcess, code: int) -> Trial:
        trial = self._trials[process.trial.number]
        if code == 0 or (was_stopped(code) and is_over(process.folder)):  # amid what follows the training
            return self._ended(trial, "complete")
        if was_stopped(code):
            return self._ended(trial, "pruned" if process.is_pruned else "stopped")
        reason = reason_of_failure(process.folder, code, process.log_start)
        return replace(self._ended(trial, "failed"), reason=reason, value=None, beside={})

    def _set_back(self) -> None:
        """Leave trials that were refused to a sweep that goes on: none of them has begun."""
        for number, reason in self._refused.items():
            self.refused = replace(self._trials[number], state="stopped", reason=reason)
            self._keep(self.refused)

    def _check_metric(self, number: int, is_over: bool) -> None:
        """Insist that a trial logs the metric, as soon as it is plain that it does not: mostly before a step."""
        name, progress = self._metric, self._progress[number]
        if name is None or not (progress.lacks(name) or (is_over and name not in progress.names)):
            return
        near = difflib.get_close_matches(name, progress.names, n=3, cutoff=0)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"metric.name = {name} is not logged by the trials; {hint}accepted: a measure in "
            f"{self._folder.trials / self._trials[number].name / METRICS_FILE}"
        )

    def _ended(self, trial: Trial, state: State) -> Trial:
        trial = replace(self._with_progress(trial), state=state)
        if state == "complete" and self._metric and trial.value is None:
            return replace(trial, state="failed", beside={}, reason=f"the last {self._metric} is not finite")
        return trial

    def _with_progress(self, trial: Trial) -> Trial:
        progress = self._progress[trial.number]
        return replace(trial, value=progress.value, beside=progress.beside, step=max(0, progress.step))

    def _progress_of(self, process: TrialProcess) -> Progress:
        return process.progress(self._metric, self._sweep.beside)

    def _keep(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._progress.setdefault(trial.number, Progress())
        write_trial(self._folder.trials / trial.name, trial)
        write_results(self._folder.path, self._sweep, self.trials)

    def _stop_all(self) -> None:
        """Have those that run save and end; they are taken up again by a sweep that goes on."""
        for process in self._running.values():
            process.stop()
        for number, process in self._running.items():
            code = process.wait()
            self._progress[number] = self._progress_of(process)
            self._settle(process, code)
        self._running.clear()

    def _rows(self) -> list[Row]:
        totals = {number: total_steps(process.folder) for number, process in self._running.items()}
        return [Row(trial, totals.get(trial.number)) for trial in self.trials]
