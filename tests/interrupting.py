"""A callback that sends a signal to its own process, as a scheduler or a user would."""

import os
import signal
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class SignalAt(Callback):
    """Sends a signal in a hook.

    Args:
        number: the signal's name.
        hook: one of the callback hooks.
        step: after so many optimizer steps.
        skip: leave out so many calls of the hook in that step.
        rank: the process that gets it.
        group: whether all processes of its group get it, as from a terminal.
    """

    def __init__(
        self,
        number: str = "SIGUSR1",
        hook: str = "on_train_batch_end",
        step: int = 1,
        skip: int = 0,
        rank: int = 0,
        group: bool = False,
    ) -> None:
        self.number, self.step, self.skip, self.rank = signal.Signals[number], step, skip, rank
        self.group = group
        setattr(self, hook, self._send)

    def _send(self, trainer, *args, **kwargs):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            self.skip -= 1
            if self.skip == -1:
                if self.group:
                    os.killpg(os.getpgrp(), self.number)
                else:
                    os.kill(os.getpid(), self.number)


class RowsOfSteps(Callback):
    """Writes which rows each process has trained on in which step; rows of weight 0 fill up a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        place = Path(trainer.default_root_dir) / f"rows-{os.getpid()}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a") as file:
            for row, weight in zip(batch.row_ids, batch.weight.tolist(), strict=True):
                if weight:
                    file.write(f"{trainer.global_step} {row}\n")
