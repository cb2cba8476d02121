"""What the code takes of Lightning that Lightning does not promise: a version without it is told of here, by name."""

import pytest
from lightning import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _get_sigkill_signal, _SignalConnector


@pytest.fixture(scope="module")
def trainer():
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def test_signals_are_handled_by_a_part_of_the_trainer_that_can_be_replaced(trainer):
    assert isinstance(trainer._signal_connector, _SignalConnector)
    assert callable(_SignalConnector.register_signal_handlers)
    assert callable(_SignalConnector.teardown)
    assert trainer.interrupted is False
    assert callable(_SubprocessScriptLauncher.kill)
    assert callable(_SubprocessScriptLauncher.launch)
    assert _get_sigkill_signal() == 9


def test_the_loops_count_under_the_names_that_a_resumed_run_sets(trainer):
    state = trainer.fit_loop.state_dict()
    counted = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    for name in ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"):
        assert state[name]["current"] == state[name]["total"] == counted, name
    for name in ("epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"):
        assert state[name]["is_last_batch"] is False
    assert state["epoch_loop.state_dict"] == {"_batches_that_stepped": 0}
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 0
    assert trainer.fit_loop._data_fetcher is None
    assert callable(trainer.fit_loop.epoch_loop._should_check_val_fx)


def test_a_step_that_fails_is_written_and_taken_again_by_parts_of_the_trainer(trainer):
    assert callable(trainer._checkpoint_connector.dump_checkpoint)
    counted = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    counted.completed = 12
    assert trainer.global_step == 12
    counted.completed = 0


def test_the_command_line_has_the_methods_that_ours_overrides():
    for name in ("_instantiate_trainer", "_parse_ckpt_path", "_parser", "_get"):
        assert callable(getattr(LightningCLI, name)), name
