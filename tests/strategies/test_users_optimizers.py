"""An optimizer of one's own, whose state is not tensors alone, goes on from a checkpoint where it was."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from helpers import leave_together, run, run_on_two_ranks
from invariance import load
from lightning.pytorch.callbacks import Callback

from orpo_lightning import ORPO, OptimizerConfig, PolicyConfig, PreferenceModule
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.integrity import damage
from orpo_lightning.models.checkpoint import load_policy, read_checkpoint
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.sharded_checkpoint import is_sharded
from orpo_lightning.strategies import FSDP2Strategy

TYPES = ["sharded", "full"]
STEPS = 6
"""Of a run; its checkpoint is of the third."""


class SaveAt(Callback):
    def __init__(self, path, steps):
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer, *others):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.path / f"step={trainer.global_step}.ckpt")


def train(folder, **options):
    module = {
        "policy": PolicyConfig(str(folder / "base"), dtype="float64"),
        "optimizer": OptimizerConfig(lr=0.05, algorithm="users_optimizers.Counting"),
    }
    plugins = [SafeCheckpointIO()]
    return run(ORPO(), module_class=PreferenceModule, module=module, max_steps=STEPS, plugins=plugins, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one launch of two processes."""
    place = tmp_path_factory.mktemp("ranks")
    tiny_model("opt", torch.float64).save_pretrained(place / "base")
    run_on_two_ranks(__file__, place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("state_dict_type", TYPES)
def test_on_two_processes_it_ends_bit_for_bit_where_a_run_that_was_not_stopped_does(folder, state_dict_type):
    whole, rest = (load(folder, f"{state_dict_type}-{part}") for part in ("whole", "rest"))
    assert is_sharded(folder / state_dict_type / "step=3.ckpt") == (state_dict_type == "sharded")
    assert damage(folder / state_dict_type / "step=3.ckpt") is None
    assert torch.equal(rest.weights, whole.weights)
    assert rest.history == [logged for logged in whole.history if logged[0] >= rest.history[0][0]]
    assert len(rest.history) == STEPS - 3


@pytest.mark.slow
@pytest.mark.parametrize("state_dict_type", TYPES)
def test_in_one_process_it_goes_on_from_there_too(folder, state_dict_type):
    whole = load(folder, f"{state_dict_type}-whole")
    rest = train(folder, ckpt_path=folder / state_dict_type / "step=3.ckpt")
    assert len(rest.history) == STEPS - 3
    torch.testing.assert_close(rest.weights, whole.weights, rtol=1e-10, atol=1e-12)
    state = next(iter(rest.trainer.optimizers[0].state.values()))
    assert (state["step"], state["scale"]) == (STEPS, pytest.approx(0.9**STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("state_dict_type", TYPES)
def test_its_model_can_be_taken_away(folder, state_dict_type):
    net = load_policy(read_checkpoint(folder / state_dict_type / f"step={STEPS}.ckpt"))
    found = torch.cat([each.detach().flatten() for each in net.parameters()])
    assert torch.equal(found, load(folder, f"{state_dict_type}-whole").weights)


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", ".*sync_dist.*")
    for state_dict_type in TYPES:
        place = folder / state_dict_type
        options = {"devices": 2, "strategy": FSDP2Strategy(state_dict_type)}
        whole = train(folder, callbacks=[SaveAt(place, (3, STEPS))], **options)
        options = {"devices": 2, "strategy": FSDP2Strategy(state_dict_type)}
        rest = train(folder, ckpt_path=place / "step=3.ckpt", **options)
        for part, found in {"whole": whole, "rest": rest}.items():
            saved = {"history": json.dumps(found.history), "gradients": [], "weights": found.weights}
            if os.environ["RANK"] == "0":
                torch.save(saved, folder / f"{state_dict_type}-{part}.pt")
    leave_together()
