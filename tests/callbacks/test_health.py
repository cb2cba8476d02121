"""What goes wrong in a run is said in a sentence, once, kept with the run and repeated at its end."""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers import Exploding, NamedSets, Recorder, TinyModule, run
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from pages import page_named

from orpo_lightning import (
    DPO,
    KTO,
    ORPO,
    SFT,
    NonFiniteError,
    Objective,
    ObjectiveOutput,
    OptimizerConfig,
    ScheduleConfig,
)
from orpo_lightning.callbacks.health import Health
from orpo_lightning.summary.record import read_record
from orpo_lightning.testing import make_rows, make_unpaired_rows

ROWS, VALIDATION = make_rows(16), make_rows(6, seed=9)
ON_THE_PAGE = [cells[0].strip("`") for cells in page_named("metrics").rows("it says | when, and what it means")]
QUIET = [
    "--trainer.enable_progress_bar=false",
    "--summary.prompts=0",
    "--summary.report=false",
    "--export.enabled=false",
]


class Unlikely(Objective):
    """Makes both responses unlikely, the rejected one more so."""

    def __call__(self, policy, reference=None):
        return ObjectiveOutput(policy.chosen_mean + 2 * policy.rejected_mean)


class Margin(Objective):
    """Widens the margin without end."""

    def __call__(self, policy, reference=None):
        return ObjectiveOutput(policy.rejected_mean - policy.chosen_mean)


def fit(objective=None, rows=ROWS, validation=VALIDATION, health=None, **options):
    """The sentences of a fit, each of which has been said once, and no other."""
    health = health or Health()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(
            objective or ORPO(),
            rows,
            validation,
            **{"callbacks": [health], "num_sanity_val_steps": -1, "check_val_every_n_epoch": 1, **options},
        )
    sentences = [each.sentence for each in health.findings]
    texts = [str(each.message) for each in said]
    assert [text for text in texts if text in sentences] == sentences
    assert all(any(phrase in sentence for phrase in ON_THE_PAGE) for sentence in sentences)
    return health.findings


def fast(lr=0.3, schedule=None):
    return {
        "optimizer": OptimizerConfig(lr=lr, algorithm="torch.optim.SGD"),
        "schedule": schedule or ScheduleConfig("constant", warmup=0),
    }


@pytest.mark.parametrize("objective", [ORPO(), DPO(), SFT(), KTO()], ids=lambda each: type(each).__name__)
def test_of_a_good_run_nothing_is_said(objective):
    assert fit(objective, max_epochs=4) == []


def test_of_single_responses_without_pairs_nothing_is_said():
    assert fit(KTO(), make_unpaired_rows(16), make_unpaired_rows(6, seed=9), max_epochs=4) == []


def test_likelihood_displacement_is_said_once_after_as_many_validations_as_are_asked_for():
    (found,) = fit(Unlikely(), max_epochs=6, module=fast())
    assert found.step == 6  # three epochs of two steps
    assert found.sentence.startswith(
        "the chosen responses of the validation have become less likely for 3 validations in a row"
    )
    assert "between the steps 0 and 6, while pref/margins rose" in found.sentence
    (later,) = fit(Unlikely(), max_epochs=6, module=fast(), health=Health(patience=5))
    assert later.step == 10


def test_each_of_several_validation_sets_is_looked_at():
    health = Health(patience=2)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=[health],
        logger=Recorder(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=-1,
    )
    with pytest.warns(UserWarning, match="of the validation set easy"):
        trainer.fit(TinyModule(Unlikely(), **fast()), NamedSets([]))
    said = [re.search(r"validation set (\w+) have become less likely", each.sentence)[1] for each in health.findings]
    assert said == ["easy", "hard"]


def test_pairs_that_are_known_by_heart_are_said_of_training_and_of_validation():
    validation, training = fit(Margin(), ROWS[:8], ROWS[:8], max_epochs=6, module=fast(0.05))
    # the training lags by the step that it is measured before
    assert (validation.step, training.step) == (3, 4)
    assert validation.sentence.startswith("all pairs of the validation are told apart, 3 times in a row")
    assert training.sentence.startswith("all pairs of the training are told apart, 3 times in a row")
    assert "pref/accuracies stays at 1 and pref/margins went from 1.04" in validation.sentence


def test_without_validation_the_training_is_looked_at_epoch_by_epoch():
    (found,) = fit(Margin(), ROWS[:8], None, max_epochs=6, module=fast(0.05))
    assert found.sentence.startswith("all pairs of the training are told apart")


def test_a_learning_rate_that_still_rises_at_the_end_is_said_before_the_first_step():
    (found,) = fit(module=fast(schedule=ScheduleConfig("linear", warmup=9)), max_epochs=2)
    assert found.step == 0
    assert "model.schedule.warmup is 9 steps and the run has 4" in found.sentence


def test_a_learning_rate_of_zero_is_said_before_the_first_step():
    (found,) = fit(module=fast(0.0))
    assert (found.step, "nothing is learned: model.optimizer.lr is 0" in found.sentence) == (0, True)


def test_a_module_with_an_optimizer_of_its_own_is_not_judged_by_the_settings_that_it_does_not_use():
    class Own(TinyModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    assert fit(module_class=Own, module=fast(0.0, ScheduleConfig("linear", warmup=9))) == []


def test_a_first_step_without_a_gradient_is_said():
    class Flat(Objective):
        def __call__(self, policy, reference=None):
            return ObjectiveOutput(0 * policy.chosen)

    (found,) = fit(Flat())
    assert (found.step, "the gradient of the first step is 0" in found.sentence) == (1, True)


class Wrong(TinyModule):
    """Weights that are those of another model, and large."""

    def configure_model(self):
        super().configure_model()
        with torch.no_grad():
            self.policy.net.get_output_embeddings().weight.mul_(60)


def test_a_model_that_does_worse_than_a_guess_is_said_after_the_first_step_and_without_validation():
    for validation in (VALIDATION, None):
        (found,) = fit(SFT(), ROWS, validation, module_class=Wrong, module=fast(0.0001), max_steps=1)
        assert found.step == 1
        assert re.match(
            r"before training the chosen responses are less likely than a guess: nll_response is", found.sentence
        )
        assert "among all 97 tokens is 4.57" in found.sentence


def test_a_module_that_measures_nothing_of_its_own_steps_is_not_looked_at():
    class Bare(TinyModule):
        def training_step(self, batch, batch_idx):
            return self._shared_step(batch, self.train_metrics)[0]

        def configure_gradient_clipping(self, *args, **kwargs):
            pass

    assert fit(module_class=Bare, validation=None) == []


def test_a_step_that_fails_is_not_kept_where_no_configuration_could_take_it_again(tmp_path):
    with pytest.raises(NonFiniteError, match=r"Rows: made:\d+(, made:\d+)*$"):
        run(Exploding(), ROWS, callbacks=[Health()], default_root_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_switched_off_it_says_nothing():
    assert fit(Unlikely(), max_epochs=6, module=fast(), health=Health(enabled=False)) == []


def test_a_second_fit_with_the_same_callback_starts_anew():
    health = Health()
    first = list(fit(Unlikely(), max_epochs=4, module=fast(), health=health))
    assert fit(Unlikely(), max_epochs=4, module=fast(), health=health) == first


def test_patience_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match=r"health\.patience = 1 is out of range; accepted: 2 or more"):
        Health(patience=1)


# the command


def fitted(orpo_lightning, *options):
    orpo_lightning("fit", "--config=orpo", *QUIET, *options)
    return read_record(Path("runs/orpo/run.json")).health


def test_what_is_said_of_data_and_settings_is_said_once_kept_with_the_run_and_repeated_at_its_end(
    orpo_lightning, capsys
):
    rows = [{"prompt": f"{i} and {i}?", "chosen": f"It is {2 * i}.", "rejected": f"It is {i}."} for i in range(1, 17)]
    rows[2]["chosen"], rows[5]["rejected"] = "It is. " * 99, "It is not. " * 99
    for name, kept in (("train", rows), ("val", rows[:2])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    data = ["--data.train=train.jsonl", "--data.val=val.jsonl", "--data.max_length=128"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cut = "--data.overlong=truncate_response"
        health = fitted(orpo_lightning, *data, cut, "--trainer.max_steps=2", "--model.schedule.warmup=5")
    cut, shared, warmup = (each.sentence for each in health)
    assert all(any(phrase in sentence for phrase in ON_THE_PAGE) for sentence in (cut, shared, warmup))
    assert cut.startswith("2 of the 32 responses of train (6%, first train.jsonl:3) are cut")
    assert shared.startswith("2 of the 2 rows of validation (100%, first val.jsonl:1) have a prompt that is trained on")
    assert "model.schedule.warmup is 5 steps and the run has 2" in warmup
    texts = [str(each.message) for each in said]
    assert [texts.count(sentence) for sentence in (cut, shared, warmup)] == [1, 1, 1]
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.index(" Warnings ") < printed.index(cut) < printed.index(shared) < printed.index(warmup)
    assert printed.index(warmup) < printed.index("Validation, ")
    warned = Path("runs/orpo/summary.md").read_text().partition("## Warnings\n\n")[2].partition("\n\n")[0]
    assert warned == f"- {cut}\n- {shared}\n- T{warmup[1:]}"


LOSSES = """
from orpo_lightning import Objective, ObjectiveOutput

class Unlikely(Objective):
    def __call__(self, policy, reference=None):
        return ObjectiveOutput(policy.chosen_mean + 2 * policy.rejected_mean)
"""


@pytest.fixture
def unlikely(orpo_lightning, monkeypatch, tmp_path):
    """A run that displaces, validated after each step, and its findings."""
    (tmp_path / "unlikely_losses.py").write_text(LOSSES)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--model.objective=unlikely_losses.Unlikely", "--trainer.max_steps=5", "--trainer.val_check_interval=1"]
    options += ["--data.limit=40", "--checkpoint.every_n_steps=1", "--model.schedule.warmup=0"]

    def fit(*more):
        return fitted(orpo_lightning, *options, *more)

    return fit


@pytest.mark.slow
def test_a_run_that_goes_on_looks_at_what_was_measured_before_and_repeats_what_was_found(unlikely):
    straight = unlikely("--trainer.default_root_dir=runs/orpo")
    (found,) = straight
    Path("runs/orpo").rename("runs/straight")
    for stop in (2, 4):
        signal = ["--trainer.callbacks=interrupting.SignalAt", f"--trainer.callbacks.step={stop}"]
        with pytest.raises(SystemExit):
            unlikely(*signal, *([] if stop == 2 else ["--ckpt_path=last"]))
    assert read_record(Path("runs/orpo/run.json")).health == straight  # found after the first interruption
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert unlikely("--ckpt_path=last") == straight
    assert found.step == 3
    assert not any("less likely" in str(each.message) for each in said)
    assert found.sentence in Path("runs/orpo/summary.md").read_text().replace("The chosen", "the chosen")


class Looks(Callback):
    """Reads the record of the run before each step."""

    seen: ClassVar = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        record = read_record(Path("runs/orpo/run.json"))
        self.seen.append((trainer.global_step, record.status, len(record.health)))


def test_what_was_found_is_in_the_record_while_the_run_goes_on(unlikely, monkeypatch):
    monkeypatch.setitem(sys.modules, "looking", sys.modules[__name__])
    unlikely("--trainer.callbacks=looking.Looks")
    assert Looks.seen == [(step, "running", int(step >= 3)) for step in range(5)]
