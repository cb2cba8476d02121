"""The two checkpoints of a run: the last one, and the best by a measure of the validation."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from orpo_lightning.ranks import fail_together
from orpo_lightning.run_folder import BEST_CHECKPOINTS, CHECKPOINT_FOLDER, LAST_CHECKPOINT
from orpo_lightning.trainer_parts import is_fast_dev_run
from orpo_lightning.whole_folder import put_all_back, take_place, whole_folder


@dataclass(frozen=True)
class Best:
    """The best checkpoint.

    Args:
        step: the optimizer steps that it is of.
        score: its value of the measure.
    """

    step: int
    score: float

    @property
    def name(self) -> str:
        """Of its file."""
        return BEST_CHECKPOINTS.replace("*", str(self.step))


class Checkpoints(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` and the best checkpoint by a measure of the validation, two files. Where a run
    goes on by another measure, the best by the one before stays.

    They are saved between two optimizer steps, when all that was measured of the weights is in the loggers. The last
    one is never older than the best; where they are of the same step they are one file under two names.

    Args:
        every_n_steps: save the last one after so many optimizer steps, and whenever the run ends or is stopped;
            null: only then, and with every new best one. A file of smollm2 has 1.6 GB, one of an adapter a few MB.
        monitor: the measure of the best one; where it is of several validation sets, it is that of the first. Where a
            validation does not have it, or there is none, no best one is kept. null: none.
        mode: whether the largest (max) or smallest (min) value is best; of equal ones the earlier is.

    Example:
        >>> Checkpoints(every_n_steps=10).monitor
        'val/pref/accuracies'
    """

    def __init__(
        self,
        every_n_steps: int | None = 50,
        monitor: str | None = "val/pref/accuracies",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"checkpoint.every_n_steps = {every_n_steps} is out of range; accepted: 1 or more, or null"
            )
        if mode not in ("max", "min"):
            raise ValueError(f"checkpoint.mode = {mode!r}; accepted: max, min")
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.mode = mode
        self._bests: dict[str, Best] = {}
        self.folder = Path(CHECKPOINT_FOLDER)
        self._measured: Best | None = None
        self._saved = 0
        self._said = False

    @property
    def last_path(self) -> Path:
        """Where the last one is."""
        return self.folder / LAST_CHECKPOINT

    @property
    def best(self) -> Best | None:
        """The best one by this measure, if there is one."""
        return self._bests.get(self._measure)

    @property
    def _measure(self) -> str:
        return f"{self.monitor} ({self.mode})"

    @property
    def best_path(self) -> Path | None:
        """Where the best one is, if there is one."""
        return self.folder / self.best.name if self.best else None

    @property
    def best_model_path(self) -> str:
        """The same, where Lightning looks for it."""
        return str(self.best_path or "")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, the same on all ranks."""
        self._saved = 0
        self.folder = Path(trainer.strategy.broadcast(str(Path(trainer.default_root_dir) / CHECKPOINT_FOLDER)))

    def state_dict(self) -> dict[str, Any]:
        """Which are the best, by each measure that the run has had."""
        return {"measure": self._measure, "bests": {measure: asdict(best) for measure, best in self._bests.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take those back whose files are still in this run's folder."""
        bests = {measure: Best(**best) for measure, best in state_dict["bests"].items()}
        self._bests = {measure: best for measure, best in bests.items() if (self.folder / best.name).exists()}
        before = state_dict["measure"]
        if before != self._measure:
            kept = f"; the best by {before} stays" if before in self._bests else ""
            rank_zero_info(
                f"checkpoint.monitor is {self._measure} from here on, and was {before}: the best checkpoint is looked "
                f"for anew{kept}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is to be saved before a step was taken."""
        self._saved, self._measured = trainer.global_step, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the measure, until the weights can be saved."""
        untrained = trainer.sanity_checking or trainer.global_step == 0
        if untrained or trainer.state.fn != TrainerFn.FITTING or self.monitor is None:
            return
        name = self._name_in(trainer.callback_metrics)
        if name is not None:
            self._measured = Best(trainer.global_step, float(trainer.callback_metrics[name]))
        elif not self._said:
            self._said = True
            names = ", ".join(each for each in trainer.callback_metrics if each.startswith("val/")) or "nothing"
            rank_zero_info(
                f"no best checkpoint is kept: the validation has no {self.monitor}; to choose one by another measure "
                f"set checkpoint.monitor and checkpoint.mode. It has {names}"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save what is due, between two steps; what a validation amid one has measured, before the weights move."""
        step = trainer.global_step
        is_new = batch_idx % trainer.accumulate_grad_batches == 0 and step != self._saved
        if is_new or self._measured is not None:
            self.save(trainer, last=is_new and self.every_n_steps is not None and step % self.every_n_steps == 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last one."""
        self.save_where_it_stops(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where they are."""
        best = f", the best by {self.monitor} ({self.best.score:.4g}): {self.best_path}" if self.best else ""
        if self.last_path.exists():
            rank_zero_info(f"the last checkpoint: {self.last_path}{best}")

    def save_where_it_stops(self, trainer: Trainer) -> None:
        """Save the last one, unless that has been done since the last step, and the best one if that is due."""
        is_new = trainer.global_step != self._saved
        if is_new or self._measured is not None:
            self.save(trainer, last=is_new)

    def save(self, trainer: Trainer, last: bool) -> None:
        """Save the best one if this step's is, and the last one if asked for; on all ranks.

        Args:
            trainer: amid a fit, between two steps.
            last: whether to save the last one in any case.
        """
        if is_fast_dev_run(trainer):
            return
        assert self._measured is None or self._measured.step == trainer.global_step
        better = self._measured is not None and trainer.strategy.broadcast(self._is_better())
        self._saved = trainer.global_step if last or better else self._saved
        if better:
            assert self._measured is not None
            self._bests[self._measure] = self._measured
            assert self.best_path is not None
            _write(trainer, self.best_path)
        self._measured = None
        if not last and not better:
            return
        # not to be older than the best one
        if not better or not trainer.strategy.broadcast(fail_together(lambda: self._link(trainer))):
            _write(trainer, self.last_path)
        fail_together(lambda: self._remove_others(trainer))

    def _is_better(self) -> bool:
        if self._measured is None or math.isnan(self._measured.score):
            return False
        if self.best is None:
            return True
        difference = self._measured.score - self.best.score
        return difference > 0 if self.mode == "max" else difference < 0

    def _name_in(self, metrics: Mapping[str, Any]) -> str | None:
        """The measure, or that of the first validation set."""
        assert self.monitor is not None
        stage, _, rest = self.monitor.partition("/")
        of_sets = (name for name in metrics if name.startswith(f"{stage}/") and name.endswith(f"/{rest}"))
        return self.monitor if self.monitor in metrics else next(of_sets, None)

    def _link(self, trainer: Trainer) -> bool:
        """Give the best one, or all files of its folder, the name of the last one too; not all file systems can."""
        assert self.best_path is not None
        best, linked = self.best_path, False
        if trainer.is_global_zero and best.is_dir():
            with suppress(OSError):
                with whole_folder(self.last_path) as folder:
                    for file in best.iterdir():
                        os.link(file, folder / file.name)
                linked = True
        elif trainer.is_global_zero:
            part = self.last_path.with_name(f"{LAST_CHECKPOINT}.part")
            try:
                part.unlink(missing_ok=True)
                os.link(best, part)
                take_place(part, self.last_path)
                linked = True
            except OSError:
                part.unlink(missing_ok=True)
        return linked

    def _remove_others(self, trainer: Trainer) -> None:
        """Remove what another one has taken the place of, of steps that are cut too, and what a kill left half."""
        if not trainer.is_global_zero:
            return
        for path in self.folder.glob(f"{BEST_CHECKPOINTS}.part"):
            path.unlink()
        put_all_back(self.folder)
        kept = {best.name for best in self._bests.values()}
        for path in self.folder.glob(BEST_CHECKPOINTS):
            if self.best is not None and path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(trainer: Trainer, path: Path) -> None:
    """Save a checkpoint, as the trainer does, in two steps: in each all processes hear of one that fails.

    In that of the trainer itself they wait for the first one, which writes alone, also where it cannot.
    """
    with trainer.profiler.profile("save_checkpoint"):  # type: ignore[attr-defined]  # one of the connectors sets it
        checkpoint = fail_together(lambda: trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
        fail_together(lambda: trainer.strategy.save_checkpoint(checkpoint, path))
