"""The module: what it loads, logs, checks and refuses."""

import dataclasses
import math

import pytest
import torch
from helpers import Exploding, Recorder, RowsData, TinyModule, run
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler

from orpo_lightning import (
    DPO,
    IPO,
    ORPO,
    SFT,
    NonFiniteError,
    Objective,
    ObjectiveOutput,
    OptimizerConfig,
    PolicyConfig,
    PreferenceDataModule,
    PreferenceModule,
    ReferenceConfig,
    ScheduleConfig,
    SimPO,
    get_objective,
    objectives,
)
from orpo_lightning.data.batching import BatchPlan
from orpo_lightning.models import loading
from orpo_lightning.models.reference import FrozenReference
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.testing import make_rows

BUILT_IN = sorted(set(objectives.__all__) - {"Objective", "get_objective", "list_objectives"})
SHARED = {
    "loss", "nll_response", "pref/accuracies", "pref/accuracies_sum", "pref/margins",
    "logps/chosen", "logps/rejected", "logps_mean/chosen", "logps_mean/rejected",
}  # fmt: skip
REWARDS = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"}
OWN = {
    "ORPO": REWARDS | {"nll_loss", "or_loss", "log_odds_chosen", "delta", "grad_coef/chosen", "grad_coef/rejected"},
    "SFT": {"nll_loss"},
    "CPO": REWARDS | {"nll_loss", "preference_loss"},
    "ProbabilityRatio": REWARDS | {"nll_loss", "pr_loss"},
    "KTO": REWARDS - {"rewards/accuracies"} | {"kl"},
}
OF_THE_OPTIMIZER = {"grad_norm", "learning_rate"}
NEEDS_REJECTED = {"pref/accuracies", "pref/accuracies_sum", "pref/margins", "logps/rejected", "logps_mean/rejected"}


def keys(found, stage):
    return {key.removeprefix(f"{stage}/") for _, logged in found.history for key in logged if key.startswith(stage)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_objective_logs_the_shared_measures_and_its_own(name):
    found = run(get_objective(name)(), validation=make_rows(5, seed=9), max_epochs=1)
    expected = SHARED | OWN.get(name, REWARDS)
    assert keys(found, "val") == expected
    assert keys(found, "train") == (expected - (NEEDS_REJECTED if name == "SFT" else set())) | OF_THE_OPTIMIZER
    assert all(math.isfinite(value) for _, logged in found.history for value in logged.values())


def test_shared_measures_mean_what_they_say():
    rows = make_rows(4, seed=5)
    found = run(ORPO(), rows, max_epochs=1, max_steps=1, data={"global_batch_size": 4, "shuffle": False})
    fresh = TinyModule(ORPO())
    fresh.configure_model()
    chosen, rejected, chosen_n, rejected_n = [], [], [], []
    for row in rows:
        for response, sums, counts in zip(row.responses, (chosen, rejected), (chosen_n, rejected_n), strict=True):
            ids = torch.tensor([row.prompt + response.ids])
            logps = fresh.policy.net(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            sums.append(logps[len(row.prompt) - 1 :].sum().item())
            counts.append(len(response.ids))
    margins = [a / b - c / d for a, b, c, d in zip(chosen, chosen_n, rejected, rejected_n, strict=True)]
    logged = found.history[0][1]
    assert logged["train/pref/margins"] == pytest.approx(sum(margins) / 4)
    assert logged["train/pref/accuracies"] == pytest.approx(sum(m > 0 for m in margins) / 4)
    assert logged["train/nll_response"] == pytest.approx(-sum(chosen) / sum(chosen_n))
    assert logged["train/logps/rejected"] == pytest.approx(sum(rejected) / 4)


def test_the_objective_independent_measures_are_the_same_for_every_objective():
    validation = make_rows(6, seed=9)
    measured = {}
    for name in BUILT_IN:
        module = TinyModule(get_objective(name)())
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        (values,) = trainer.validate(module, RowsData(make_rows(2), validation), verbose=False)
        measured[name] = {key: values[f"val/{key}"] for key in SHARED - {"loss"}}
    # KTO's stream holds more, so that sums are rounded otherwise
    expected = measured["ORPO"]
    assert measured.pop("KTO") == pytest.approx(expected, rel=1e-12)
    assert all(values == expected for values in measured.values())


@pytest.fixture
def loads(monkeypatch):
    """The models that were loaded, by their configuration."""
    loaded = []
    original = loading.AutoModelForCausalLM.from_pretrained

    def counted(*args, **kwargs):
        loaded.append(args[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", counted)
    return loaded


@pytest.mark.parametrize(("objective", "models"), [(ORPO, 1), (SFT, 1), (SimPO, 1), (DPO, 2), (IPO, 2)])
def test_a_reference_is_loaded_only_for_objectives_that_need_one(loads, objective, models):
    module = PreferenceModule(objective())
    module.configure_model()
    module.configure_model()  # Lightning may call it again
    assert len(loads) == models
    if module.reference is not None:
        assert not any(p.requires_grad for p in module.reference.parameters())


def test_before_the_first_step_the_policy_equals_its_reference_and_dpo_is_at_ln_2(tmp_path):
    found = fit_tiny(DPO(beta=0.7), tmp_path, max_steps=1)
    assert found.callback_metrics["train/loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert found.callback_metrics["train/rewards/accuracies"] == 0.5


def test_ipo_starts_at_a_quarter_of_tau_to_the_minus_2(tmp_path):
    found = fit_tiny(IPO(tau=0.5), tmp_path, max_steps=1)
    assert found.callback_metrics["train/loss"].item() == pytest.approx(1 / (4 * 0.5**2), rel=1e-5)


def test_a_reference_that_is_not_the_policy_at_the_start_is_noticed(tmp_path):
    class Disturbed(PreferenceModule):
        def configure_model(self):
            super().configure_model()
            with torch.no_grad():
                next(self.policy.parameters()).mul_(1.5)

    with pytest.raises(ValueError, match=r"before the first step the policy must equal its reference.*rows sample"):
        fit_tiny(DPO(), tmp_path, max_steps=1, module=Disturbed)


def test_a_reference_of_its_own_may_differ(tmp_path):
    class Disturbed(PreferenceModule):
        def configure_model(self):
            super().configure_model()
            with torch.no_grad():
                next(self.policy.parameters()).mul_(1.5)

    fit_tiny(DPO(), tmp_path, max_steps=1, module=Disturbed, reference="tiny")


def fit_tiny(objective, folder, *, module=PreferenceModule, reference=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )
    data = PreferenceDataModule(val=None, max_length=256, max_prompt_length=128)
    trainer.fit(module(objective, reference=ReferenceConfig(reference)), data)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_loss_that_is_not_finite_stops_before_the_optimizer_step_and_names_the_rows(accumulate):
    rows = make_rows(16)
    bad = {row.row_id for row in rows if len(row.responses[0].ids) == 3}
    assert bad
    assert len(bad) < 8
    steps = []

    class Spy(TinyModule):
        def optimizer_step(self, *args, **kwargs):
            steps.append(1)
            super().optimizer_step(*args, **kwargs)

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
    )
    module = TinyModule(Exploding())
    with pytest.raises(NonFiniteError, match=r"the loss of optimizer step 0 is nan") as error:
        trainer.fit(module, RowsData(rows, global_batch_size=16))
    named = set(str(error.value).split("Rows: ")[1].split(", "))
    assert named == bad
    fresh = TinyModule(ORPO())
    fresh.configure_model()
    for found, expected in zip(module.policy.parameters(), fresh.policy.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_a_gradient_that_is_not_finite_stops_before_the_optimizer_step():
    with pytest.raises(NonFiniteError, match=r"the gradient norm of optimizer step 0 is (nan|inf).*Rows: made:"):
        run(Exploding(in_gradient=True), make_rows(16))


def test_gradients_are_clipped_to_a_norm_over_the_whole_global_batch():
    free = run(ORPO(), max_steps=1)
    norm = free.gradients[0].norm().item()
    assert free.history[0][1]["train/grad_norm"] == pytest.approx(norm)
    start = TinyModule(ORPO())
    start.configure_model()
    before = torch.cat([p.detach().flatten().double() for p in start.policy.parameters()])
    for accumulate in (1, 4):
        clipped = run(ORPO(), max_steps=1, gradient_clip_val=norm / 3, accumulate_grad_batches=accumulate)
        torch.testing.assert_close(clipped.weights - before, (free.weights - before) / 3, rtol=1e-5, atol=1e-12)
        assert clipped.history[0][1]["train/grad_norm"] == pytest.approx(norm)  # logged before clipping


def test_a_subclass_with_a_hook_of_its_own_before_the_step_is_clipped_and_stopped_as_any_other():
    class Hooked(TinyModule):
        def on_before_optimizer_step(self, optimizer):
            pass

    options = {"max_steps": 2, "gradient_clip_val": 0.01}
    hooked, usual = run(ORPO(), module_class=Hooked, **options), run(ORPO(), **options)
    assert torch.equal(hooked.weights, usual.weights)
    with pytest.raises(NonFiniteError):
        run(Exploding(), module_class=Hooked)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_micro_batch_is_held_longer_than_its_step_whoever_clips_the_gradients(accumulate):
    held = []

    class Own(TinyModule):
        def configure_gradient_clipping(self, *args, **kwargs):
            held.append(len(self.scored))

    run(ORPO(), module_class=Own, accumulate_grad_batches=accumulate)
    assert held == [accumulate] * 6
    assert run(ORPO(), accumulate_grad_batches=accumulate).module.scored == []


def test_models_train_in_train_mode_and_references_in_eval_mode():
    modes = []

    class Watched(TinyModule):
        def training_step(self, batch, batch_idx):
            modes.append((self.policy.net.training, self.reference.net.training))
            return super().training_step(batch, batch_idx)

    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Watched(DPO()), RowsData(make_rows(8), make_rows(3), global_batch_size=4))
    assert set(modes) == {(True, False)}


def test_dropout_is_seeded_by_the_place_in_the_run_and_not_by_its_history(tmp_path):
    class Noisy(TinyModule):
        def configure_model(self):
            super().configure_model()
            for layer in self.policy.net.get_decoder().layers:
                layer.dropout = 0.3

    def losses(*, draws):
        torch.manual_seed(draws)  # what was drawn before must not matter
        recorder = Recorder()
        trainer = Trainer(
            accelerator="cpu", logger=recorder, log_every_n_steps=1, max_epochs=1, enable_checkpointing=False
        )
        trainer.fit(Noisy(ORPO(), policy=PolicyConfig(disable_dropout=False)), RowsData(make_rows(22)))
        return [logged["train/loss"] for _, logged in recorder.history]

    assert losses(draws=1) == losses(draws=2)
    assert losses(draws=1) != pytest.approx([v["train/loss"] for _, v in run(ORPO(), max_epochs=1).history])


def test_dropout_is_off_by_default(tmp_path):
    net = tiny_model("opt", torch.float32)
    net.config.dropout = 0.3
    net.save_pretrained(tmp_path)
    quiet = loading.load_causal_lm(PolicyConfig(str(tmp_path)))
    ids = torch.arange(3, 20)[None]
    assert torch.equal(quiet(ids).logits, quiet(ids).logits)
    noisy = loading.load_causal_lm(PolicyConfig(str(tmp_path), disable_dropout=False))
    assert not torch.equal(noisy(ids).logits, noisy(ids).logits)


def test_dropout_warns_that_the_loss_depends_on_the_split():
    with pytest.warns(UserWarning, match="with dropout the loss depends on how a global batch is split"):
        run(ORPO(), max_steps=1, module={"policy": PolicyConfig(disable_dropout=False)})


class Coupled(Objective):
    """Each pair against the mean of its batch."""

    couples_pairs = True

    def __call__(self, policy, reference=None):
        return ObjectiveOutput((policy.chosen_mean - policy.rejected_mean.mean()) ** 2)


def test_an_objective_that_couples_pairs_refuses_a_split_global_batch():
    run(Coupled(), max_steps=1)
    with pytest.raises(ValueError, match=r"Coupled couples the pairs.*accumulate_grad_batches = 1"):
        run(Coupled(), accumulate_grad_batches=2)


def test_batches_that_are_no_multiple_of_the_accumulation_are_refused():
    with pytest.raises(ValueError, match=r"limit_train_batches.*6 micro-batches.*accumulate_grad_batches = 4"):
        run(ORPO(), limit_train_batches=6, accumulate_grad_batches=4)
    with pytest.raises(ValueError, match="fast_dev_run leaves 1 micro-batches"):
        run(ORPO(), fast_dev_run=True, accumulate_grad_batches=4)


def test_overfitting_on_shuffled_batches_is_refused_and_on_fixed_ones_repeats_them():
    with pytest.raises(ValueError, match=r"overfit_batches.*data.shuffle = false"):
        run(ORPO(), overfit_batches=2)
    found = run(ORPO(), overfit_batches=2, max_epochs=3, data={"shuffle": False}, module=constant_rate(0.0))
    losses = [logged["train/loss"] for _, logged in found.history]
    assert losses[:2] * 3 == pytest.approx(losses)
    assert losses[0] != pytest.approx(losses[1])


def constant_rate(lr):
    return {
        "optimizer": OptimizerConfig(lr=lr, algorithm="torch.optim.SGD"),
        "schedule": ScheduleConfig("constant", warmup=0),
    }


def test_an_accumulation_that_changes_during_training_is_refused():
    with pytest.raises(ValueError, match="the accumulation must not change during training"):
        run(ORPO(), callbacks=[GradientAccumulationScheduler({0: 1, 1: 2})])


def test_a_micro_batch_of_too_many_tokens_is_refused_before_training():
    with pytest.raises(ValueError, match=r"max_tokens_per_batch = 50.*longest row, made:.*accumulate_grad_batches"):
        run(ORPO(), data={"max_tokens_per_batch": 50})


def test_every_epoch_that_the_run_will_reach_is_checked_before_it_starts():
    # the largest micro-batch of each epoch differs; the limit is that of the first
    plan = BatchPlan(make_rows(22), 8, 2, seed=0)
    largest = [max(plan[epoch * len(plan) + i].num_tokens for i in range(len(plan))) for epoch in range(3)]
    limit = largest[0]
    assert max(largest[1:]) > limit
    first = largest.index(next(size for size in largest if size > limit))
    data = {"max_tokens_per_batch": limit, "seed": 0}
    run(ORPO(), accumulate_grad_batches=2, max_epochs=first, data=data)
    with pytest.raises(ValueError, match="max_tokens_per_batch"):
        run(ORPO(), accumulate_grad_batches=2, max_epochs=first + 1, data=data, limit_train_batches=2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("objective", [ORPO, DPO])
def test_it_trains_in_every_precision_and_clips(objective, precision):
    # of a weight like 1.3, bf16 would make 1.296875
    rows = [dataclasses.replace(row, weight=1.3 if i % 2 else 0.7) for i, row in enumerate(make_rows(16))]
    options = {"shape": "llama", "dtype": torch.float32}
    full = run(objective(), rows, module=options, max_epochs=1, gradient_clip_val=0.1)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    found = run(
        objective(),
        rows,
        module={**options, "dtype": dtype},
        max_epochs=1,
        gradient_clip_val=0.1,
        precision=precision,
    )
    # in double precision the same seed makes other weights
    tolerance = 0.5 if precision == "64-true" else 0.03
    for (_, values), (_, expected) in zip(found.history, full.history, strict=True):
        assert values["train/loss"] == pytest.approx(expected["train/loss"], rel=tolerance)


def test_fused_adam_is_clipped_under_mixed_precision():
    module = {"shape": "llama", "dtype": torch.float32, "optimizer": OptimizerConfig(lr=1e-3)}
    found = run(ORPO(), module=module, max_steps=2, gradient_clip_val=0.1, precision="bf16-mixed")
    assert found.trainer.optimizers[0].defaults["fused"] is True
    assert found.trainer.global_step == 2


class ReferencePrompt(Objective):
    """The log-ratio of prompt and chosen response."""

    needs_reference = True
    needs_prompt_logps = True

    def __call__(self, policy, reference=None):
        return ObjectiveOutput((policy.chosen_full - reference.chosen_full) ** 2)


def test_prompt_log_probabilities_are_there_for_the_reference_too():
    run(ReferencePrompt(), validation=make_rows(3), max_steps=1)


class Mean(Objective):
    def __call__(self, policy, reference=None):
        return ObjectiveOutput(-policy.chosen_mean.mean())


def test_a_loss_that_is_reduced_already_is_refused():
    with pytest.raises(ValueError, match=r"one value per pair: 'loss' has the shape \(\), for 8 pairs"):
        run(Mean(), max_steps=1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_part_of_the_validation_set_is_normalised_by_its_own_counts(accumulate):
    found = run(
        SFT(nll_over="response"),
        validation=make_rows(22, seed=9),
        max_steps=1,
        accumulate_grad_batches=accumulate,
        limit_val_batches=1,
        val_check_interval=accumulate,
    )
    values = {k: v for _, logged in found.history for k, v in logged.items()}
    assert values["val/loss"] == pytest.approx(values["val/nll_response"], rel=1e-10)


def test_a_data_module_without_a_plan_is_refused_before_a_model_is_loaded(loads):
    with pytest.raises(ValueError, match=r"a PreferenceModule trains on planned batches: pass Trainer.fit"):
        Trainer(accelerator="cpu", logger=False).fit(PreferenceModule(ORPO()), LightningDataModule())
    assert loads == []


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_to_measure_without_validation_data_is_refused(verb):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"nothing to measure: data\.val is null"):
        getattr(trainer, verb)(PreferenceModule(ORPO()), PreferenceDataModule(val=None))


def test_an_interval_that_no_epoch_has_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(PreferenceModule, "configure_model", lambda self: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"val_check_interval = 7 is more than the 6 micro-batches of an epoch"):
        run(ORPO(), module_class=PreferenceModule, val_check_interval=7, accumulate_grad_batches=2)


def test_an_interval_that_depends_on_the_speed_of_the_machine_is_refused():
    with pytest.raises(ValueError, match=r"val_check_interval is a time, which no run that goes on could repeat"):
        run(ORPO(), validation=make_rows(2), val_check_interval="00:00:00:01")


def test_a_run_that_has_no_steps_left_says_so(tmp_path):
    run(ORPO(), max_epochs=1).trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"nothing is left to train: the checkpoint is of step 3, and the run has 3"):
        run(ORPO(), max_epochs=1, ckpt_path=tmp_path / "a.ckpt")


def test_an_objective_that_returns_something_else_is_named():
    class Bare(ORPO):
        def __call__(self, policy, reference=None):
            return super().__call__(policy, reference).loss

    with pytest.raises(ValueError, match="Bare returned a Tensor; accepted: an ObjectiveOutput"):
        run(Bare(), max_steps=1)


def test_a_run_that_would_end_before_its_checkpoint_is_refused(tmp_path):
    run(ORPO(), max_epochs=2).trainer.save_checkpoint(tmp_path / "a.ckpt")
    said = r"trainer\.max_epochs = 1 ends before step 6, which the checkpoint is of; accepted: 2 or more"
    with pytest.raises(ValueError, match=said):
        run(ORPO(), max_epochs=1, ckpt_path=tmp_path / "a.ckpt")


def test_a_share_of_the_validation_set_is_refused():
    with pytest.raises(ValueError, match=r"limit_val_batches = 0.5.*accepted: 1.0 \(all\) or a number"):
        run(ORPO(), validation=make_rows(22), limit_val_batches=0.5)


def test_a_module_that_was_interrupted_amid_a_step_starts_afresh():
    class Stop(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop")

    module = TinyModule(ORPO())
    data = RowsData(make_rows(22), global_batch_size=8)
    quiet = {"accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False}
    with pytest.raises(RuntimeError, match="stop"):
        Trainer(callbacks=[Stop()], logger=False, accumulate_grad_batches=4, max_steps=1, **quiet).fit(module, data)
    recorder = Recorder()
    Trainer(logger=recorder, accumulate_grad_batches=4, max_steps=1, log_every_n_steps=1, **quiet).fit(module, data)
    expected = run(ORPO(), max_steps=1).history[0][1]["train/loss"]
    assert recorder.history[0][1]["train/loss"] == pytest.approx(expected, rel=1e-10)


def test_measuring_does_not_move_the_state_of_an_objective():
    without = run(RunningMean(), max_epochs=1)
    measured = run(RunningMean(), validation=make_rows(5), max_epochs=1, val_check_interval=1)
    assert measured.module.objective.mean == without.module.objective.mean


def test_a_run_does_not_go_on_with_another_objective(tmp_path):
    found = run(ORPO(lambda_=0.1), max_epochs=1)
    found.trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"of a run of ORPO\(lambda_=0.1.*this run is of DPO"):
        run(DPO(), ckpt_path=tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=r"was of ORPO\(lambda_=0.1.* goes on as ORPO\(lambda_=0.5"):
        run(ORPO(lambda_=0.5), ckpt_path=tmp_path / "last.ckpt")


def test_a_run_does_not_go_on_with_another_plan(tmp_path):
    found = run(ORPO(), max_epochs=1)
    found.trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"3 optimizer steps an epoch, this run has 6.*data.global_batch_size"):
        run(ORPO(), ckpt_path=tmp_path / "last.ckpt", data={"global_batch_size": 4})


def test_conversations_longer_than_the_model_are_refused_before_training():
    row = make_rows(1)[0]
    long = dataclasses.replace(row, row_id="made:long", prompt=row.prompt * 100)
    with pytest.raises(ValueError, match=r"the model has 256 positions: set data.max_length to 256 or less"):
        run(ORPO(), [long, *make_rows(3)])


class RunningMean(Objective):
    """An objective with state."""

    couples_pairs = True

    def __init__(self) -> None:
        self.mean = 0.0

    def __call__(self, policy, reference=None):
        margin = policy.chosen_mean - policy.rejected_mean
        self.mean = 0.9 * self.mean + 0.1 * margin.mean().item()
        return ObjectiveOutput((margin - self.mean) ** 2)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def test_an_objectives_state_is_kept_in_the_checkpoint(tmp_path):
    found = run(RunningMean(), max_epochs=1)
    found.trainer.save_checkpoint(tmp_path / "last.ckpt")
    restored = RunningMean()
    module = TinyModule(restored)
    module.configure_model()
    module.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert restored.mean == found.module.objective.mean != 0.0


@pytest.mark.parametrize("part", ["objective", "objective.state", "base", "state_dict", "steps_per_epoch", "loops"])
def test_a_checkpoint_that_lacks_something_is_refused_by_its_name(tmp_path, part):
    run(DPO(), max_epochs=1).trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    inside, _, name = part.rpartition(".")
    del (saved[inside] if inside else saved)[name]
    torch.save(saved, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"the checkpoint lacks {part}.*; accepted: a checkpoint of a PreferenceMod"):
        run(DPO(), ckpt_path=tmp_path / "last.ckpt")


def test_the_reference_is_not_saved_and_another_one_is_refused(tmp_path):
    found = run(DPO(), max_epochs=1)
    found.trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [name for name in saved["state_dict"] if name.startswith("reference.")]
    assert [name for name in saved["state_dict"] if name.startswith("policy.")]

    same, other = TinyModule(DPO()), OtherReference(DPO())
    for module in (same, other):
        module.configure_model()
    same.on_load_checkpoint(saved)
    same.load_state_dict(saved["state_dict"])
    with pytest.raises(ValueError, match=r"trained against another reference.*model.reference.name_or_path"):
        other.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))


class OtherReference(TinyModule):
    def configure_model(self):
        self.reference = FrozenReference(tiny_model(self.shape, self.tiny_dtype, seed=2))
        super().configure_model()


def test_a_validation_set_of_weight_0_has_a_loss_of_0_and_no_measures():
    ignored = [dataclasses.replace(row, weight=0.0) for row in make_rows(5, seed=9)]
    for validation, expected in (
        (ignored, {"val/loss"}),
        ([*ignored, *make_rows(1)], {"val/loss", "val/pref/accuracies"}),
    ):
        found = run(DPO(), make_rows(8), validation, max_epochs=2)
        logged = [values for _, values in found.history if "val/loss" in values]
        assert len(logged) == 2
        assert logged[0].keys() == logged[1].keys()
        assert {"val/loss", "val/pref/accuracies"} & logged[0].keys() == expected
    assert run(DPO(), make_rows(8), ignored, max_epochs=1).history[-1][1].keys() == {"val/loss"}


def test_a_step_of_weight_0_has_all_measures():
    rows = [dataclasses.replace(row, weight=float(i > 7)) for i, row in enumerate(make_rows(16))]
    found = run(DPO(), rows, max_epochs=1, data={"shuffle": False})
    first, second = (values for _, values in found.history if "train/loss" in values)
    assert first.keys() == second.keys()
    assert first["train/pref/accuracies"] == 0.0
