"""A run that was interrupted and goes on equals one that was not: the plan is a function of the optimizer step."""

import pytest
import torch
from helpers import run, slow
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from orpo_lightning import DPO, ORPO, OptimizerConfig, ScheduleConfig
from orpo_lightning.testing import make_rows


class StopAt(Callback):
    """Ends the run after a number of micro-batches, as if it had been killed."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


class EndAfter(Callback):
    """Ends the run after an optimizer step, as early stopping does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step == self.step


def train(folder, objective, *, stop=None, resume=False, accumulate=1, **options):
    saver = ModelCheckpoint(folder, "last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False)
    callbacks = [saver] if stop is None else [saver, StopAt(stop)]
    return run_to_the_end(objective, callbacks, folder / "last.ckpt" if resume else None, accumulate, **options)


def by_step(found):
    merged = {}
    for step, logged in found.history:
        merged.setdefault(step, {}).update(logged)
    return merged


def run_to_the_end(objective, callbacks, ckpt_path, accumulate, **options):
    return run(
        objective,
        make_rows(22),
        make_rows(5, seed=9),
        callbacks=callbacks,
        enable_checkpointing=True,
        accumulate_grad_batches=accumulate,
        max_epochs=3,
        ckpt_path=ckpt_path,
        **options,
    )


@pytest.mark.parametrize("objective", [ORPO, slow(DPO)])
@pytest.mark.parametrize("stop", [slow(2), 5, slow(6), slow(7), 13])
def test_an_interrupted_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, objective, stop):
    options = {"accumulate": 2, "module": {"optimizer": OptimizerConfig(lr=1e-2)}}
    straight = train(tmp_path / "straight", objective(), **options)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "parts", objective(), stop=stop, **options)
    resumed = train(tmp_path / "parts", objective(), resume=True, **options)
    assert torch.equal(resumed.weights, straight.weights)
    expected, found = by_step(straight), by_step(resumed)
    assert found
    for step, logged in found.items():
        assert logged == {name: expected[step][name] for name in logged}
        # what was measured of the weights of the checkpoint is of the part before
        assert {name for name in expected[step] if name not in logged and step > min(found)} == set()


@pytest.mark.parametrize(("before", "after"), [(1, 4), slow(4, 1), slow(2, 8)])
def test_a_run_resumed_with_another_accumulation_goes_on_with_the_same_plan(tmp_path, before, after):
    straight = train(tmp_path / "straight", ORPO())
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "parts", ORPO(), stop=5 * before, accumulate=before)
    resumed = train(tmp_path / "parts", ORPO(), resume=True, accumulate=after)
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=1e-12)
    expected, found = by_step(straight), by_step(resumed)
    assert found
    for step, logged in found.items():
        assert logged == pytest.approx(expected[step], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("max_steps", [slow(2), 4])
def test_a_run_that_max_steps_ended_can_be_made_longer_bit_for_bit(tmp_path, max_steps):
    module = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": ScheduleConfig("constant", warmup=0)}
    whole, part, rest = (ModelCheckpoint(tmp_path / name, "last") for name in ("whole", "part", "rest"))
    straight = run_to_the_end(ORPO(), [whole], None, 2, module=module)
    run_to_the_end(ORPO(), [part], None, 2, module=module, max_steps=max_steps)
    resumed = run_to_the_end(ORPO(), [rest], tmp_path / "part" / "last.ckpt", 2, module=module)
    assert torch.equal(resumed.weights, straight.weights)
    expected, found = by_step(straight), by_step(resumed)
    assert set(found) >= set(range(max_steps, 9))
    for step in range(max_steps, 9):
        assert found[step] == expected[step]


@pytest.mark.parametrize("every", [1, slow(2)])
def test_a_run_that_a_callback_ended_can_be_made_longer_bit_for_bit(tmp_path, every):
    module = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": ScheduleConfig("constant", warmup=0)}
    whole, part, rest = (ModelCheckpoint(tmp_path / name, "last") for name in ("whole", "part", "rest"))
    options = {"module": module, "check_val_every_n_epoch": every}
    straight = run_to_the_end(ORPO(), [whole], None, 2, **options)
    run_to_the_end(ORPO(), [part, EndAfter(4)], None, 2, **options)
    resumed = run_to_the_end(ORPO(), [rest], tmp_path / "part" / "last.ckpt", 2, **options)
    assert torch.equal(resumed.weights, straight.weights)
    expected, found = by_step(straight), by_step(resumed)
    assert min(found) == 4
    for step in range(4, 9):
        assert found[step] == expected[step]
