"""An optimizer of one's own, whatever its state is, goes on from a checkpoint where it was, or is refused."""

import json
import os
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import users_optimizers
from helpers import attempt, fsdp1_on_cpus, leave_together, run, run_on_two_ranks
from invariance import load
from lightning.pytorch.callbacks import Callback

from orpo_lightning import ORPO, OptimizerConfig, PolicyConfig, PreferenceModule
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.integrity import damage
from orpo_lightning.models.checkpoint import load_policy, read_checkpoint
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.sharded_checkpoint import is_sharded
from orpo_lightning.strategies import FSDP1Strategy, FSDP2Strategy

OPTIMIZERS = ["Counting", "Factored", "Gathering"]
TYPES = ["sharded", "full"]
CASES = [(optimizer, kind) for optimizer in OPTIMIZERS for kind in TYPES]
STEPS = 6
"""Of a run; its checkpoint is of the third."""


class SaveAt(Callback):
    def __init__(self, path, steps):
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer, *others):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.path / f"step={trainer.global_step}.ckpt")


def path_of(optimizer):
    return f"{'users_optimizers' if hasattr(users_optimizers, optimizer) else 'torch.optim'}.{optimizer}"


def train(folder, optimizer, **options):
    module = {
        "policy": PolicyConfig(str(folder / "base"), dtype="float64"),
        "optimizer": OptimizerConfig(lr=0.05, algorithm=path_of(optimizer)),
    }
    plugins = [SafeCheckpointIO()]
    return run(ORPO(), module_class=PreferenceModule, module=module, max_steps=STEPS, plugins=plugins, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one launch of two processes."""
    place = tmp_path_factory.mktemp("ranks")
    tiny_model("opt", torch.float64).save_pretrained(place / "base")
    for optimizer in OPTIMIZERS:
        train(place, optimizer, callbacks=[SaveAt(place / optimizer / "alone", (3,))])
    run_on_two_ranks(__file__, place)
    return place


@pytest.fixture(scope="module")
def said(folder):
    """Of what is refused, by each process."""
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "kind"), CASES)
def test_on_two_processes_it_ends_bit_for_bit_where_a_run_that_was_not_stopped_does(folder, optimizer, kind):
    whole, rest = (load(folder, f"{optimizer}-{kind}-{part}") for part in ("whole", "rest"))
    assert is_sharded(folder / optimizer / kind / "step=3.ckpt") == (kind == "sharded")
    assert damage(folder / optimizer / kind / "step=3.ckpt") is None
    assert torch.equal(rest.weights, whole.weights)
    assert rest.history == [logged for logged in whole.history if logged[0] >= rest.history[0][0]]
    assert len(rest.history) == STEPS - 3


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "kind"), CASES)
def test_in_one_process_it_goes_on_from_there_too(folder, optimizer, kind):
    whole = load(folder, f"{optimizer}-{kind}-whole")
    rest = train(folder, optimizer, ckpt_path=folder / optimizer / kind / "step=3.ckpt")
    assert len(rest.history) == STEPS - 3
    torch.testing.assert_close(rest.weights, whole.weights, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2])  # in one process nothing tells whether it would be shared out
def test_on_two_it_goes_on_from_one(folder, optimizer):
    whole, rest = load(folder, f"{optimizer}-full-whole"), load(folder, f"{optimizer}-alone-rest")
    torch.testing.assert_close(rest.weights, whole.weights, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_one_that_counts_steps_of_weights_of_which_a_process_has_no_part_goes_on_under_fsdp1(folder):
    whole, rest = (load(folder, f"Adagrad-FSDP1-{part}") for part in ("whole", "rest"))
    assert len(rest.history) == STEPS - 3
    torch.testing.assert_close(rest.weights, whole.weights, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_numbers_in_its_state_are_those_of_the_steps(folder, kind):
    checkpoint = SafeCheckpointIO().load_checkpoint(folder / "Counting" / kind / f"step={STEPS}.ckpt")
    state = next(iter(checkpoint["optimizer_states"][0]["state"].values()))
    assert (state["step"], state["scale"]) == (STEPS, pytest.approx(0.9**STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_of_rows_and_columns_is_whole_in_a_checkpoint(folder, kind):
    two, one = (
        SafeCheckpointIO().load_checkpoint(folder / "Factored" / each / "step=3.ckpt") for each in (kind, "alone")
    )
    found, expected = (each["optimizer_states"][0]["state"] for each in (two, one))
    assert found.keys() == expected.keys()
    for number, state in expected.items():
        for name, value in state.items():
            torch.testing.assert_close(found[number][name], value, rtol=1e-9, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "kind"), CASES)
def test_its_model_can_be_taken_away(folder, optimizer, kind):
    net = load_policy(read_checkpoint(folder / optimizer / kind / f"step={STEPS}.ckpt"))
    found = torch.cat([each.detach().flatten() for each in net.parameters()])
    assert torch.equal(found, load(folder, f"{optimizer}-{kind}-whole").weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OfRows", "cannot hold state.0.rows of an optimizer, which is shared out and of shape"),
        (
            "OfItsPart",
            "cannot hold state.0.sum of an optimizer, which differs between the processes; accepted: what is",
        ),
        ("SharedOfNone", "cannot hold state.all.gradient of an optimizer, which is shared out and of shape ("),
        ("OfItsPart under FSDP1", "which differs between the processes; accepted: what is the same in all of them"),
        ("Gathering, read under FSDP1", "under FSDP1 a run cannot go on with 'all' of an optimizer, which is of no"),
        (
            "Counting, read under FSDP1",
            "under FSDP1 a run cannot go on with moments of an optimizer; accepted: tensors",
        ),
        ("Gathering under FSDP1", "under FSDP1 a checkpoint cannot hold 'all' of an optimizer, which is of no weight"),
        ("Counting under FSDP1", "under FSDP1 a checkpoint cannot hold moments of an optimizer; accepted: tensors of"),
        (
            "Factored under FSDP1",
            "moves weights that FSDP1Strategy shares out otherwise than whole ones; accepted: ",
        ),
        ("Adafactor under FSDP1", "'torch.optim.Adafactor' moves weights that FSDP1Strategy shares out otherwise than"),
        ("Rprop", "'torch.optim.Rprop' cannot step weights that FSDP2Strategy shares out (aten."),
        ("LBFGS", "'torch.optim.LBFGS' cannot step weights that FSDP2Strategy shares out (Cannot flatten"),
        ("Adafactor", "'torch.optim.Adafactor' cannot step weights that FSDP2Strategy shares out (aten."),
    ],
)
def test_what_cannot_be_is_said_by_both_processes(said, name, words):
    first, second = (each[name] for each in said)
    assert first == second
    assert words in first
    assert "accepted: " in first


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", ".*sync_dist.*")
    for optimizer, kind in CASES:
        place = folder / optimizer / kind
        together = {"devices": 2, "strategy": FSDP2Strategy(kind)}
        keep(train(folder, optimizer, callbacks=[SaveAt(place, (3, STEPS))], **together), place, "whole")
        together = {"devices": 2, "strategy": FSDP2Strategy(kind)}
        keep(train(folder, optimizer, ckpt_path=place / "step=3.ckpt", **together), place, "rest")
    for optimizer in OPTIMIZERS[:2]:
        place, together = folder / optimizer / "alone", {"devices": 2, "strategy": FSDP2Strategy()}
        keep(train(folder, optimizer, ckpt_path=place / "step=3.ckpt", **together), place, "rest")
    said = {}
    for name in ("OfRows", "OfItsPart", "SharedOfNone", "Adafactor", "LBFGS", "Rprop"):
        attempt(said, name, partial(fail, folder, name, FSDP2Strategy()))
    with fsdp1_on_cpus():
        for name in (*OPTIMIZERS, "OfItsPart", "Adafactor"):
            attempt(said, f"{name} under FSDP1", partial(fail, folder, name, FSDP1Strategy()))
        for name, kind in (("Gathering", "sharded"), ("Counting", "full")):
            goes_on = partial(train, folder, name, ckpt_path=folder / name / kind / "step=3.ckpt", devices=2)
            attempt(said, f"{name}, read under FSDP1", partial(goes_on, strategy=FSDP1Strategy()))
        place, together = folder / "Adagrad" / "FSDP1", {"devices": 2, "strategy": FSDP1Strategy()}
        keep(train(folder, "Adagrad", callbacks=[SaveAt(place, (3,))], **together), place, "whole")
        together = {"devices": 2, "strategy": FSDP1Strategy()}
        keep(train(folder, "Adagrad", ckpt_path=place / "step=3.ckpt", **together), place, "rest")
    (folder / f"said-{os.environ['RANK']}.json").write_text(json.dumps(said))
    leave_together()


def fail(folder, optimizer, strategy):
    train(folder, optimizer, devices=2, strategy=strategy, callbacks=[SaveAt(folder / "refused", (1,))])


def keep(found, place, part):
    saved = {"history": json.dumps(found.history), "gradients": [], "weights": found.weights}
    if os.environ["RANK"] == "0":
        torch.save(saved, place.parents[1] / f"{place.parent.name}-{place.name}-{part}.pt")
