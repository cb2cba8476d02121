"""A run that says by itself when something goes wrong, and keeps a step that ends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from orpo_lightning.callbacks.failed_step import keep_failed_step
from orpo_lightning.health.start import no_gradient, rate_of_zero, still_warming_up, worse_than_guessing
from orpo_lightning.health.validations import ACCURACY, MARGIN, MEASURES, RULES, Measured, Rule
from orpo_lightning.modules.finite import NonFiniteError
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.modules.validation_interval import is_complete
from orpo_lightning.summary.record import Finding
from orpo_lightning.trainer_parts import callbacks_of, data_of, is_fast_dev_run, val_names_of


class Health(Callback):
    """Says in a sentence when something goes wrong, each once, and repeats it at the end of the run.

    It stops nothing, and asks the device for nothing in a step but the first. What the data module says of the data is
    repeated as well. ``docs/metrics.md`` lists what it looks for.

    Args:
        enabled: whether to look.
        patience: how many validations in a row it takes. So many have to show that the chosen responses become less
            likely, or that all pairs are told apart.
        failed_step: keep a step of a loss or gradient that is not finite. It is written to the run folder with the
            weights from before it, for ``orpo-lightning replay``.
    """

    def __init__(self, enabled: bool = True, patience: int = 3, failed_step: bool = True) -> None:
        if patience < 2:
            raise ValueError(f"health.patience = {patience} is out of range; accepted: 2 or more")
        self.enabled = enabled
        self.patience = patience
        self.failed_step = failed_step
        self._forget()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the run before this one."""
        self._forget()

    def _forget(self) -> None:
        self.findings: list[Finding] = []
        self._measured: list[Measured] = []
        self._said: set[tuple[Rule, str]] = set()
        self._training = _Sums()
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """What was measured up to a checkpoint, so that a run that goes on from there looks at all of it."""
        return {"measured": [asdict(each) for each in self._measured]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back, and what was found in it, which has been said."""
        for each in state_dict["measured"]:
            self.findings += self._found_with(Measured(**each))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the settings tell, and repeat what the data module has said."""
        self._step = trainer.global_step
        if not self.enabled:
            return
        data = data_of(trainer)
        self.findings += [Finding(self._step, sentence) for sentence in getattr(data, "advice", tuple)()]
        own = type(pl_module).configure_optimizers is not PreferenceModule.configure_optimizers
        if isinstance(pl_module, PreferenceModule) and not own:
            schedule, optimizer = pl_module.schedule_config, pl_module.optimizer_config
            self._say_now(still_warming_up(schedule, optimizer, data.total_steps), rate_of_zero(optimizer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the first step, and add up the others."""
        if not self.enabled or trainer.global_step == self._step or not isinstance(pl_module, PreferenceModule):
            return
        self._step, measures = trainer.global_step, pl_module.measures
        self._training.add({name: measures[name] for name in (ACCURACY, MARGIN) if name in measures})
        if self._step == 1:
            self._look_at_first_step(trainer, pl_module)

    def _look_at_first_step(self, trainer: Trainer, module: PreferenceModule) -> None:
        # a module of a user's own need not measure both
        nll, norm = module.measures.get("nll_response"), trainer.callback_metrics.get("train/grad_norm")
        assert module.policy is not None
        vocabulary = module.policy.net.config.get_text_config().vocab_size
        self._say_now(
            None if nll is None else worse_than_guessing(float(nll), vocabulary),
            None if norm is None else no_gradient(float(norm)),
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the validation has measured, and the training since the one before."""
        if not self.enabled or trainer.state.fn != TrainerFn.FITTING or not is_complete(trainer):
            return
        for name in val_names_of(trainer):
            prefix, on = (f"val/{name}/", f"the validation set {name}") if name else ("val/", "the validation")
            found = {each: trainer.callback_metrics.get(f"{prefix}{each}") for each in MEASURES}
            values = {each: float(value) for each, value in found.items() if value is not None}
            if values:
                self._say(self._found_with(Measured(trainer.global_step, on, values)))
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the training since the last validation or epoch."""
        means = self._training.means
        if means:
            self._say(self._found_with(Measured(trainer.global_step, "the training", means)))
            self._training = _Sums()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep a step whose loss or gradient is not finite, and add to the error how to take it again."""
        writes = self.enabled and self.failed_step and not is_fast_dev_run(trainer)
        if writes and isinstance(exception, NonFiniteError) and isinstance(pl_module, PreferenceModule):
            exception.advice = keep_failed_step(trainer, pl_module, exception)

    def _found_with(self, measured: Measured) -> list[Finding]:
        """What is found now that this was measured too, and was not before."""
        # a validation that was cut short is done again
        before = [each for each in self._measured if each.on != measured.on or each.step < measured.step]
        self._measured = [*before, measured]
        history = [each for each in self._measured if each.on == measured.on]
        found = []
        for rule in RULES:
            sentence = None if (rule, measured.on) in self._said else rule(history, self.patience)
            if sentence is not None:
                self._said.add((rule, measured.on))
                found.append(Finding(measured.step, sentence))
        return found

    def _say_now(self, *sentences: str | None) -> None:
        self._say(Finding(self._step, sentence) for sentence in sentences if sentence is not None)

    def _say(self, findings: Iterable[Finding]) -> None:
        for each in findings:
            self.findings.append(each)
            rank_zero_warn(each.sentence)


class _Sums:
    """Sums of what is logged in training steps, wherever it is: nobody waits for it."""

    def __init__(self) -> None:
        self._steps = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add what a step has logged."""
        self._steps += 1
        self._sums = {name: value.detach() + self._sums.get(name, 0) for name, value in values.items()}

    @property
    def means(self) -> dict[str, float]:
        """Over the steps; this waits for the device."""
        return {name: float(total) / self._steps for name, total in self._sums.items()}


def findings_of(trainer: Trainer) -> Iterable[Finding]:
    """What a run has found to be wrong with itself so far."""
    return next((each.findings for each in callbacks_of(trainer) if isinstance(each, Health)), ())
