"""The module that trains a policy on preference data, pairs or single responses, with any objective."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from orpo_lightning.metrics import RatioMetrics, SplitMetrics, weighted_sum
from orpo_lightning.models.adapters import frozen_state, untrained
from orpo_lightning.models.building import ModelBuilder, build_whole
from orpo_lightning.models.checkpoint import describe_policy, in_words
from orpo_lightning.models.identity import check_base, check_settings, fingerprint_of_base, settings_of
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig
from orpo_lightning.models.logp_model import Layout, LogpModel
from orpo_lightning.models.reference import Reference, make_reference, reference_mode
from orpo_lightning.models.reference_cache import Scorer, start_tolerance
from orpo_lightning.models.weight_files import content_together
from orpo_lightning.modules import fit_for_objective, optimization, optimizer_check, resume
from orpo_lightning.modules.finite import Scored, check_finite
from orpo_lightning.modules.optimization import OptimizerConfig, ScheduleConfig
from orpo_lightning.modules.out_of_memory import ExplainsMemory, explained
from orpo_lightning.modules.reference_run import check_start, reference_run, start_difference
from orpo_lightning.modules.settings import check_changes, honour_rates, settings_of_run
from orpo_lightning.modules.validation_interval import (
    ValidateAtEnd,
    check_validation_interval,
    is_complete,
    is_still_to_come,
)
from orpo_lightning.modules.views import view_of
from orpo_lightning.objectives import Objective
from orpo_lightning.packing import PackedBatch
from orpo_lightning.records import PairLogps, UnpairedLogps
from orpo_lightning.trainer_parts import data_of, val_names_of


class PreferenceModule(ExplainsMemory, LightningModule):
    """Trains a policy on preference data: pairs, or single responses where the objective takes these.

    A loss that needs another forward pass than the response log-probabilities overrides :meth:`policy_logps` or
    :meth:`reference_logps`.

    Args:
        objective: the loss, an :class:`~orpo_lightning.Objective`.
        policy: the model that is trained.
        reference: the frozen model of the objectives that need one.
        layout: ``packed`` (each prompt once, no padding), ``padded``, or ``auto``: packed where it is exact.
        optimizer: the optimizer.
        schedule: the learning rate over the optimizer steps.

    Example:
        >>> from orpo_lightning import ORPO
        >>> module = PreferenceModule(ORPO(lambda_=0.2), optimizer=OptimizerConfig(lr=1e-3))
        >>> module.needs_rejected
        True
    """

    repeats_validation = True
    """A run whose checkpoint was saved amid a validation starts it again."""

    def __init__(
        self,
        objective: Objective,
        policy: PolicyConfig = PolicyConfig(),
        reference: ReferenceConfig = ReferenceConfig(),
        layout: Layout = "auto",
        optimizer: OptimizerConfig = OptimizerConfig(),
        schedule: ScheduleConfig = ScheduleConfig(),
    ) -> None:
        super().__init__()
        if objective.needs_reference:
            reference_mode(reference, policy)  # refuses what cannot be, before anything is loaded
        self.objective = objective
        self.policy_config = policy
        self.reference_config = reference
        self.layout: Layout = layout
        self.optimizer_config = optimizer
        self.schedule_config = schedule
        self.policy: LogpModel | None = None
        self.reference: Reference | None = None
        self._base_fingerprint: str | None = None
        self.scored: list[Scored] = []
        """The micro-batches of the step that is being taken."""
        self.measures: dict[str, Tensor] = {"loss": torch.zeros(())}
        """What the last step has measured, by name, wherever it was computed."""
        self.train_metrics = RatioMetrics()
        self.eval_metrics: list[SplitMetrics] = []
        self._view: Any = view_of(objective)  # its types are those that the objective is called with
        self._objective_state: dict[str, Any] | None = None
        self._trained_by: list[list[Any]] = [[0, repr(objective)]]

    @property
    def needs_rejected(self) -> bool:
        """Whether training streams hold the rejected responses; the data module asks."""
        return self.objective.needs_rejected

    @property
    def needs_mismatched(self) -> bool:
        """Whether each prompt gets a response to another one; the data module asks."""
        return self.objective.needs_mismatched

    def configure_model(self) -> None:
        """Load the policy, and the reference if the objective needs one. Lightning may call this more than once."""
        # a strategy that shares models out loads them in a way of its own; without a trainer there is none
        strategy = None if self._trainer is None else self.trainer.strategy
        build: ModelBuilder = getattr(strategy, "build_model", build_whole)
        config = self.policy_config
        if self.policy is None:
            self.policy = build(config, lambda net: LogpModel(net, self.layout, config.kernels))
            if config.lora.is_used:
                self._base_fingerprint = fingerprint_of_base(config, self.policy.net, content_together)
        if self.reference is None and self.objective.needs_reference:
            base = self._base_fingerprint
            self.reference = make_reference(self.reference_config, config, self.policy, base, build)
            # a frozen copy is in eval mode on purpose
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")

    def configure_callbacks(self) -> list[Any]:
        """Have the weights measured that a fit ends with."""
        return [ValidateAtEnd()]

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule, which advances once per optimizer step."""
        weights, dim_of = self._policy.named_parameters(), optimization.dimensions(self.trainer.strategy)
        optimizer = optimization.build_optimizer(self.optimizer_config, weights, fused=self.can_fuse, dim_of=dim_of)
        schedule = optimization.build_schedule(self.schedule_config, optimizer, self._data.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def can_fuse(self) -> bool:
        """Whether the optimizer may be a fused one, which unscales fp16 gradients too late for them to be clipped."""
        return self._scaler is None and optimization.can_be_fused(self._policy.parameters())

    def policy_logps(self, batch: PackedBatch) -> PairLogps | UnpairedLogps:
        """Log-probabilities of a batch under the policy."""
        return self._seen(batch, self._policy)

    @torch.no_grad()
    def reference_logps(self, batch: PackedBatch) -> PairLogps | UnpairedLogps | None:
        """Log-probabilities of a batch under the reference; None if the objective needs none."""
        return None if self.reference is None else self._seen(batch, self.reference)

    def _seen(self, batch: PackedBatch, model: Scorer) -> PairLogps | UnpairedLogps:
        table = model(batch, prompt_logps=self.objective.needs_prompt_logps)
        logps: PairLogps | UnpairedLogps = self._view.logps(batch, table)
        return logps

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """The part of a micro-batch in the loss of its global batch."""
        loss, _ = self._shared_step(batch, self.train_metrics)
        if batch.step.is_last:
            self.measures = self.train_metrics.compute()
            self.train_metrics.reset()
            self._log(self.measures, "train")
        # cancels the division by the accumulation (Lightning's) and by the number of ranks (DDP's, FSDP's)
        return loss * batch.step.micro_batches

    def validation_step(self, batch: PackedBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Add a micro-batch to the measures of its validation set, and hand on its pairs, if any, one by one."""
        _, policy = self._shared_step(batch, self.eval_metrics[dataloader_idx])
        return {"pairs": self._view.pairs(batch, policy)}

    def test_step(self, batch: PackedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a micro-batch to the measures of its test set."""
        self._shared_step(batch, self.eval_metrics[dataloader_idx])

    def on_validation_epoch_start(self) -> None:
        """Start to measure, and keep the state of the objective, which measuring must not move."""
        self.eval_metrics = [SplitMetrics().to(self.device) for _ in val_names_of(self.trainer)]
        self._objective_state = copy.deepcopy(dict(self.objective.state_dict()))

    def on_test_epoch_start(self) -> None:
        """As before a validation."""
        self.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:
        """Log the measures of the validation set."""
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the measures of the test set."""
        self._finish_evaluation("test")

    @explained
    def _shared_step(self, batch: PackedBatch, metrics: RatioMetrics) -> tuple[Tensor, Any]:
        policy: Any = self.policy_logps(batch)
        reference: Any = self.reference_logps(batch)
        if self.training and self.global_step == 0 and reference is not None:
            self._check_reference(self._view.sums(policy), self._view.sums(reference), batch)
        output = self.objective(policy, reference)
        fit_for_objective.check_output(self.objective, output)
        groups = self._view.groups(batch)
        weight = batch.weight[groups]
        metrics.update(self._view.ratios(policy, output, weight))
        if self.training:
            self.scored.append(Scored(batch, output.loss.detach(), groups, self._view.seen(policy)))
        total: float = self._view.total_weight(batch.step)
        return weighted_sum(output.loss, weight.to(output.loss.dtype)) / total, policy

    def _finish_evaluation(self, stage: str) -> None:
        if self._objective_state is not None:
            self.objective.load_state_dict(self._objective_state)
            self._objective_state = None
        measured: dict[str, float] = {}
        for name, metrics in zip(val_names_of(self.trainer), self.eval_metrics, strict=True):
            prefix, values = f"{stage}/{name}" if name else stage, metrics.compute()
            self._log(values, prefix, to_loggers=not self._is_fitting)
            measured |= {f"{prefix}/{key}": value.item() for key, value in values.items()}
        if self._is_fitting and is_complete(self.trainer):
            # Lightning would log what it measures of the weights after s steps as of step s - 1
            for logger in self.trainer.loggers:
                logger.log_metrics({**measured, "epoch": self.current_epoch}, step=self.global_step)
                logger.save()

    def _log(self, values: dict[str, Tensor], stage: str, to_loggers: bool = True) -> None:
        # summed over micro-batches and ranks already: every rank logs the same numbers under the same names
        shown = {"loss", "pref/accuracies"}
        for prog_bar in (True, False):
            chosen = {f"{stage}/{name}": value for name, value in values.items() if (name in shown) is prog_bar}
            self.log_dict(chosen, prog_bar=prog_bar, logger=to_loggers, batch_size=1)

    def setup(self, stage: str) -> None:
        """Refuse, before a model is loaded, what would train on something else than what was asked for."""
        fit_for_objective.check_rows(self.objective, getattr(self._data, "unpaired_row", None))
        fit_for_objective.check_micro_batches(self.objective, self._micro_batches)
        if stage != "fit":
            if not getattr(self._data, "val", True):
                raise ValueError("there is nothing to measure: data.val is null; set it to validation data")
            return
        check_validation_interval(self.trainer, self._steps_per_epoch)
        optimizer_check.check_optimizer(self.optimizer_config, self.trainer.strategy)
        if self.policy_config.has_dropout:
            rank_zero_warn("with dropout the loss depends on how a global batch is split over micro-batches and ranks")

    def on_train_start(self) -> None:
        """Put the policy in train mode: models are loaded in eval mode."""
        self._policy.train()
        if self.reference is not None:
            self.reference.policy_moves()
        # a run before this one may have ended amid a step
        self.train_metrics = RatioMetrics().to(self.device)
        self.scored.clear()

    def on_train_batch_start(self, batch: PackedBatch, batch_idx: int) -> None:
        """Make randomness a function of the position in the run, so that a resumed run draws the same."""
        fit_for_objective.check_step(batch.step, self._micro_batches)
        if self.scored and self.scored[-1].batch.step.is_last:  # nobody has checked that step
            self.scored.clear()
        torch.manual_seed(batch.step.seed)
        resume.log_as_of_step(self.trainer, self.global_step)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Stop on a loss or a gradient norm that is not finite, log the norm, and clip by that of the global batch.

        Lightning calls it right before the optimizer steps; its own would refuse to clip under bf16-mixed.
        """
        norm = optimization.gradient_norm(self.parameters(), self.trainer.strategy)
        self._check_and_log(norm, optimizer)
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)

    def _check_and_log(self, gradient_norm: Tensor, optimizer: Optimizer) -> None:
        # both at once, and as late as can be: but for what is logged, it is here alone that a step waits for the device
        own = self.measures["loss"]
        loss, norm = torch.stack([own, gradient_norm.to(own)]).tolist()
        # a gradient scaler (fp16) skips steps of such a gradient by itself
        followed = {"the loss": loss} | ({"the gradient norm": norm} if self._scaler is None else {})
        check_finite(followed, self.global_step, self.scored)
        self.scored.clear()
        # as tensors of the host: Lightning would copy plain numbers to the device, and each copy waits for it
        rate = torch.as_tensor(optimizer.param_groups[0]["lr"])
        self.log_dict({"train/grad_norm": torch.tensor(norm), "train/learning_rate": rate}, batch_size=1)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step, and free the gradients, which would else be there beside all activations of the next step."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.trainer.strategy.handles_gradient_accumulation:  # whose calls need not be the ends of steps
            self.optimizer_zero_grad(epoch, batch_idx, optimizer)

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _check_reference(self, policy: Tensor, reference: Tensor, batch: PackedBatch) -> None:
        if self.reference_config.name_or_path is not None or self.policy_config.has_dropout:
            return  # they may differ
        difference = self.trainer.strategy.reduce(start_difference(policy, reference), reduce_op="max")
        check_start(difference, start_tolerance(self._policy.net.dtype, self.trainer.precision), batch.row_ids)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the objective's state, what an export needs, and which frozen weights were used, without those."""
        measuring = self._objective_state
        state = dict(self.objective.state_dict()) if measuring is None else measuring
        checkpoint["objective"] = resume.describe_objective(self.objective, self._trained_by, state)
        checkpoint["amid_validation"] = measuring is not None or (self._is_fitting and is_still_to_come(self.trainer))
        checkpoint["policy"] = describe_policy(self.policy_config, self._policy.net, self._data)
        if self._is_fitting:
            checkpoint["steps_per_epoch"] = self._steps_per_epoch
            checkpoint["settings"] = settings_of_run(self)
        if self.reference is not None:
            checkpoint["reference"] = self.reference.fingerprint
        checkpoint["base"] = self._base_fingerprint
        for name in untrained(self, checkpoint["state_dict"]):
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what training has changed, and find the place in the epoch."""
        resume.check_contents(checkpoint, goes_on=self._is_fitting)
        if self._is_fitting:
            resume.check_objective_of(checkpoint["objective"], self.objective)
            left = checkpoint["global_step"] < self._data.total_steps
            self._trained_by = resume.trained_by(checkpoint, repr(self.objective) if left else None)
        self.take_state(checkpoint)
        if self._is_fitting:
            resume.check_length_of(checkpoint, self._steps_per_epoch, self.trainer.max_epochs, self._data.total_steps)
            check_changes(checkpoint["settings"], settings_of_run(self), checkpoint["global_step"])
        check_settings(checkpoint["policy"]["settings"], settings_of(self._policy.net))
        if self._is_fitting:
            resume.rewind_to_step(checkpoint, self._steps_per_epoch, self.trainer.accumulate_grad_batches)
            if type(self).configure_optimizers is PreferenceModule.configure_optimizers:
                honour_rates(checkpoint, self)
        elif self._trainer is not None:
            resume.log_as_of_step(self.trainer, checkpoint["global_step"])

    def take_state(self, checkpoint: dict[str, Any]) -> None:
        """Take back the objective's state, and insist on the same frozen weights."""
        self.objective.load_state_dict(checkpoint["objective"]["state"])
        if self.reference is not None:
            resume.check_reference_of(checkpoint, self.reference.fingerprint)
            self.reference.policy_moves()
        check_base(checkpoint["base"], self._base_fingerprint)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; those that training does not change need not be there."""
        return super().load_state_dict({**frozen_state(self), **state_dict}, strict, assign)

    @property
    def trained_by(self) -> str:
        """The objective, and those before it where the run went on with other arguments."""
        return in_words(self._trained_by)

    @property
    def _micro_batches(self) -> int:
        """Of a step, on all ranks."""
        return self.trainer.accumulate_grad_batches * self.trainer.world_size

    @property
    def _is_fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def on_fit_start(self) -> None:
        """Refuse data that the model cannot take, and make the reference ready."""
        config = self._policy.net.config.get_text_config()
        fit_for_objective.check_positions(getattr(config, "max_position_embeddings", None), self._data.longest)
        self._prepare_reference()

    def on_validation_start(self) -> None:
        """Make the reference ready, where no fit did."""
        if not self._is_fitting:
            self._prepare_reference()

    def on_test_start(self) -> None:
        """As before a validation."""
        self.on_validation_start()

    def _prepare_reference(self) -> None:
        if self.reference is not None:
            self.reference.prepare(reference_run(self, self._data, self.objective.needs_prompt_logps))

    @property
    def _data(self) -> Any:
        return data_of(self.trainer)

    @property
    def _steps_per_epoch(self) -> int:
        fit_for_objective.check_data(self._data)
        return int(self._data.steps_per_epoch)

    @property
    def _policy(self) -> LogpModel:
        assert self.policy is not None, "configure_model has not run"
        return self.policy
