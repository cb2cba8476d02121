"""A fit that is asked to stop finishes its step, saves and says how to go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _get_sigkill_signal, _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn

from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.signals import StopSignals, exit_code, name_of, say, unsaved_exit_code


class StoppedError(SystemExit):
    """All ranks have agreed to stop, and have saved if there was something to save."""


class StopOnSignal(Callback):
    """On SIGTERM, SIGUSR1 or Ctrl-C, finishes the optimizer step, saves ``last.ckpt`` and ends the process.

    The exit code is 75 (the same command with ``--ckpt_path last`` goes on), after Ctrl-C 130. A validation is not
    finished: a run that goes on starts it again; nor is what follows the training, such as the model folder. Before the
    first step nothing is saved, and the exit code is that of the signal, 143 of SIGTERM. All ranks stop at the same
    step, whichever of them got the signal. Lightning's own handlers, which stop amid a step, are not used, nor is its
    requeueing under SLURM: that is for the batch script.

    Args:
        command: what to type to go on, said at the end; None says where the checkpoint is.
    """

    def __init__(self, command: str | None = None) -> None:
        self.command = command
        self._signals = StopSignals()
        self._lightnings: _SignalConnector | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place of Lightning's handlers in a fit."""
        if stage == TrainerFn.FITTING:
            self._lightnings = trainer._signal_connector
            trainer._signal_connector = _Handlers(trainer, self._signals, partial(self._end, trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give it back."""
        self._signals.stop_listening()
        if self._lightnings is not None:
            trainer._signal_connector, self._lightnings = self._lightnings, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no process behind that waits for this one."""
        launcher = trainer.strategy.launcher
        ends_alone = isinstance(exception, SystemExit) and not isinstance(exception, StoppedError)
        if ends_alone and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(_get_sigkill_signal())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop between two steps."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before anything else is written: the run that goes on has nothing left to train, and does that."""
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Stop amid a validation, where the run that goes on starts it again."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        # a run that goes on starts nothing then
        over = 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop
        # of another module the ranks may have different numbers of batches, and could not agree
        if getattr(pl_module, "repeats_validation", False):
            stops = trainer.sanity_checking or not over
        else:
            stops = trainer.sanity_checking and trainer.world_size == 1
        if stops:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        number = self._signals.received
        if trainer.world_size > 1:
            asked = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(asked, reduce_op="max"))
        if not number:
            return
        for saver in _savers(trainer):
            saver.save_where_it_stops(trainer)
        self._end(trainer, number)

    def _end(self, trainer: Trainer, number: int) -> NoReturn:
        saved = next((each.last_path for each in _savers(trainer) if each.last_path.exists()), None)
        step = trainer.global_step
        if saved is None:
            say(f"stopped by {name_of(number)} after {step} steps; nothing is saved")
        else:
            how = self.command or f"ckpt_path={str(saved)!r}"
            say(f"stopped by {name_of(number)} after {step} steps, saved in {saved}; to go on: {how}")
        code = exit_code(number) if saved else unsaved_exit_code(number)
        # the process that started the others takes another code than 0 of theirs for a crash, and ends at once
        raise StoppedError(code if trainer.is_global_zero else os.EX_OK)


def _savers(trainer: Trainer) -> list[Checkpoints]:
    return [each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints)]


class _Handlers(_SignalConnector):
    """Ours in place of Lightning's."""

    def __init__(self, trainer: Trainer, signals: StopSignals, end: Callable[[int], NoReturn]) -> None:
        super().__init__(trainer)
        self._signals = signals
        self._end = end

    def register_signal_handlers(self) -> None:
        self._signals.listen()

    def teardown(self) -> None:
        if self.trainer.interrupted:
            self._signals.stop_listening()
        else:  # the training is over, and the end of the fit begins
            self._signals.end_at_once(self._end)
