"""What a person wants to know when a fit has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from rich import get_console

from orpo_lightning.callbacks.answers import answer_prompts, why_no_answers
from orpo_lightning.callbacks.health import findings_of
from orpo_lightning.callbacks.run_record import status_at_end, total_steps
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.data.report import SplitReport
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.ranks import together
from orpo_lightning.report.contents import build_report
from orpo_lightning.report.page import write_page
from orpo_lightning.report.picture import draw_curves
from orpo_lightning.run_folder import CURVES_FILE, RECORD_FILE, REPORT_FILE, SUMMARY_FILE
from orpo_lightning.summary.markdown import write_markdown
from orpo_lightning.summary.run import Ending, Outcome, RunSummary, Speed
from orpo_lightning.summary.terminal import print_summary
from orpo_lightning.trainer_parts import callbacks_of, data_of, is_fast_dev_run


class Summary(Callback):
    """Ends a fit with an account of it: in the terminal, and with the curves in ``summary.md`` in the run folder.

    Args:
        enabled: whether to give it.
        prompts: how many prompts of the validation data are answered before the first step and after the last; 0 for
            none.
        max_new_tokens: longest answer, tokens.
        report: whether to write ``report.html`` too, a page.
    """

    def __init__(self, enabled: bool = True, prompts: int = 2, max_new_tokens: int = 60, report: bool = True) -> None:
        for name, value, least in (("prompts", prompts, 0), ("max_new_tokens", max_new_tokens, 1)):
            if value < least:
                raise ValueError(f"summary.{name} = {value} is out of range; accepted: {least} or more")
        self.enabled = enabled
        self.prompts = prompts
        self.max_new_tokens = max_new_tokens
        self.report = report
        self._started: float | None = None
        self._has_trained = False

    @rank_zero_only
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock."""
        self._started, self._has_trained = time.perf_counter(), False

    @together
    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer the prompts before the first step."""
        self._has_trained = True
        if trainer.global_step == 0:
            self._answer(trainer, pl_module)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer the prompts again, a run too that was stopped after its last step, and give the account."""
        self._answer(trainer, pl_module)
        if not self._has_trained and (Path(trainer.default_root_dir) / SUMMARY_FILE).exists():
            return  # it has the account of the training already
        self._tell(trainer, pl_module, "complete" if status_at_end(trainer) == "complete" else "stopped")

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the account of a fit that was interrupted from the keyboard, as far as it came."""
        if isinstance(exception, KeyboardInterrupt) and self._has_trained:
            self._tell(trainer, pl_module, "interrupted")

    def _is_wanted(self, trainer: Trainer) -> bool:
        return self.enabled and not is_fast_dev_run(trainer)

    def _answer(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_wanted(trainer) and self.prompts and why_no_answers(trainer, pl_module) is None:
            answer_prompts(trainer, pl_module, self.prompts, self.max_new_tokens)

    def _tell(self, trainer: Trainer, pl_module: LightningModule, ending: Ending) -> None:
        if not self._is_wanted(trainer):
            return
        folder = Path(trainer.default_root_dir)
        why_not = why_no_answers(trainer, pl_module) if self.prompts else None
        reports: dict[str, SplitReport] = getattr(data_of(trainer), "reports", {})
        outcome = Outcome(
            objective=getattr(pl_module, "trained_by", type(pl_module).__name__),
            ending=ending,
            steps=trainer.global_step,
            total_steps=total_steps(trainer),
            speed=self._speed(trainer),
            has_policy=isinstance(getattr(pl_module, "policy", None), LogpModel),
            reports=[str(report) for report in reports.values()],
            warnings=[each.sentence for each in findings_of(trainer)],
            notes=[why_not] if why_not else [],
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _draw(draw_curves, folder, CURVES_FILE)
            if self.report and (folder / RECORD_FILE).exists():  # a trainer of somebody's own may leave no record
                _draw(_write_report, folder, REPORT_FILE)
            summary = RunSummary.of_run(folder, outcome)
            write_markdown(summary, folder / SUMMARY_FILE)
        except OSError as error:  # the training itself is done, and its results are in the folder
            rank_zero_warn(f"the summary of the run could not be written: {error}")
            return
        print_summary(summary, get_console())

    def _speed(self, trainer: Trainer) -> Speed:
        seconds = time.perf_counter() - (self._started or time.perf_counter())
        counted = next((each for each in callbacks_of(trainer) if isinstance(each, Throughput)), None)
        if counted is None:
            return Speed(seconds)
        totals = counted.totals
        measures = totals.measures if totals.steps else {}
        return Speed(
            seconds,
            steps=totals.steps,
            step_seconds=totals.seconds,
            pairs=totals.done.pairs,
            tokens=totals.done.tokens,
            peak_gb=totals.peak_gb,
            tflop=totals.done.flops / 1e12,
            peak_tflops=totals.peak_flops / 1e12 or None,
            saved_by_sharing=measures.get("work/saved_by_sharing"),
            seconds_waited=totals.done.seconds_waited / totals.ranks,
        )


def _draw(write: Callable[[Path, Path], object], folder: Path, name: str) -> None:
    try:
        write(folder, folder / name)
    except Exception as error:  # whatever it is, a picture is no reason to end a run that is complete with a failure
        rank_zero_warn(f"{name} could not be written ({type(error).__name__}: {error}); the run itself is complete")


def _write_report(folder: Path, page: Path) -> None:
    write_page(build_report(read_runs([str(folder)])), page)
