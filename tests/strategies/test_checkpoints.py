"""A checkpoint of several processes that one of them cannot write is an error of all, and none waits for another."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from helpers import FULL, attempt, failing, leave_together, run_on_two_ranks
from lightning.fabric.plugins.environments import TorchElasticEnvironment

from orpo_lightning import whole_folder
from orpo_lightning.callbacks import failed_step
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.integrity import damage
from orpo_lightning.ranks import fail_together, from_all_ranks, place_among_ranks
from orpo_lightning.sharded_checkpoint import ShardedCheckpoint
from orpo_lightning.strategies import FSDP2Strategy, checkpoints

ADVICE = "What was there before is as it was: make room, then go on with --ckpt_path last"


def checkpoint():
    """Each process has a weight of its own."""
    rank, _ = place_among_ranks()
    return {
        "pytorch-lightning_version": "2.6.0",
        "global_step": 7,
        "state_dict": {f"weight.{rank}": torch.arange(12.0) + rank},
        "optimizer_states": [],
        "loops": {},
    }


def is_named(name):
    return lambda value, file: Path(getattr(file, "name", "")).name == name


FAILURES = {
    "what is no secret": lambda: failing(checkpoints, "without_secrets", of_rank=1),
    "the hidden folder": lambda: failing(whole_folder.tempfile, "mkdtemp"),
    "the lock": lambda: failing(whole_folder, "FileLock"),
    "the part of the first": lambda: failing(torch, "save"),
    "the part of the second": lambda: failing(torch, "save", of_rank=1),
    "all but tensors": lambda: failing(torch, "save", only=is_named("meta.pt")),
    "the manifest": lambda: failing(json, "dump"),
    "the name": lambda: failing(os, "rename", only=lambda new, place: Path(new).name == "new"),
}
"""What may not be written of a folder."""
OTHERS = ["somebody's folder", "one file", "no folder around it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one launch of two processes."""
    place = tmp_path_factory.mktemp("ranks")
    run_on_two_ranks(__file__, place)
    return place


@pytest.fixture(scope="module")
def said(folder):
    """What each process has said, by what failed."""
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_what_one_process_cannot_write_of_a_folder_all_say_in_the_same_words(folder, said, name):
    wanted = f"OSError: {folder / 'last.ckpt'} cannot be written: {FULL}. {ADVICE}"
    assert [of_rank[name] for of_rank in said] == [wanted, wanted]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("somebody's folder", "a folder is there that is no checkpoint"),
        ("one file", FULL),
        ("no folder around it", "File exists"),
    ],
)
def test_so_they_do_of_what_the_first_process_alone_looks_at_or_writes(said, name, reason):
    first, second = (of_rank[name] for of_rank in said)
    assert first == second
    assert f"cannot be written: {reason}" in first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["its configuration", *FAILURES])
def test_a_step_that_fails_and_cannot_be_kept_is_told_of_by_all(said, name):
    first, second = (of_rank[f"step, {name}"] for of_rank in said)
    assert first == second
    assert first.startswith("The step could not be kept for orpo-lightning replay: ")
    assert FULL in first


@pytest.mark.slow
def test_what_was_there_is_as_it_was_and_nothing_is_left_beside_it(folder, said):
    assert [of_rank["what was there"] for of_rank in said] == [[None, ["last.ckpt"]]] * 2


@pytest.mark.slow
def test_when_there_is_room_again_the_next_one_is_written(folder, said):
    found = ShardedCheckpoint(folder / "last.ckpt").whole()
    assert found["state_dict"].keys() == {"weight.0", "weight.1"}
    assert found["global_step"] == 8


@pytest.mark.slow
def test_so_they_do_of_a_checkpoint_that_one_of_them_cannot_take_apart(said):
    assert [of_rank["no state of an optimizer"] for of_rank in said] == ["Exception: 'state'", "KeyError: 'state'"]


@pytest.mark.slow
def test_so_they_do_of_what_could_not_be_read_again(said):
    first, second = (of_rank["an object"] for of_rank in said)
    assert first == second
    assert first.startswith(
        "ValueError: a checkpoint cannot hold optimizer_states.0.state.0.clock, a builtins.object: "
    )


@pytest.mark.slow
def test_an_error_that_cannot_be_sent_as_it_is_has_the_same_words_everywhere(said):
    assert [of_rank["an error of one's own"] for of_rank in said] == ["OwnError: mine", "ValueError: mine"]


class OwnError(ValueError):
    """Takes something that cannot be sent."""

    def __init__(self, what):
        super().__init__(lambda: what)
        self.what = what

    def __str__(self):
        return self.what


def fail_on_first():
    if place_among_ranks()[0] == 0:
        raise OwnError("mine")


def keep(strategy, folder, said, name):
    """Keep a step that failed; only its configuration and the writing may fail."""
    step = SimpleNamespace(KEY="failed_step", of=lambda *args: SimpleNamespace(to_plain=dict))
    trainer = SimpleNamespace(
        strategy=strategy,
        default_root_dir=folder,
        is_global_zero=strategy.is_global_zero,
        _checkpoint_connector=SimpleNamespace(dump_checkpoint=lambda weights_only: checkpoint()),
    )
    with patch.object(failed_step, "FailedStep", step):
        said[f"step, {name}"] = failed_step.keep_failed_step(trainer, None, SimpleNamespace(step=3))
    assert from_all_ranks(name) == [name, name]


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    strategy = FSDP2Strategy()
    strategy.cluster_environment = TorchElasticEnvironment()
    rank, said, place = place_among_ranks()[0], {}, folder / "last.ckpt"
    strategy.save_checkpoint(checkpoint(), place)
    for name, fails in FAILURES.items():
        with fails():
            attempt(said, name, lambda: strategy.save_checkpoint(checkpoint(), place))
            with patch.object(failed_step, "config_of", lambda run: "model: {}"):
                keep(strategy, folder, said, name)
    with failing(failed_step, "config_of"):
        keep(strategy, folder, said, "its configuration")
    state = {"state": {0: {"clock": object()} if rank == 1 else {}}, "param_groups": []}
    attempt(said, "an object", lambda: strategy.save_checkpoint(checkpoint() | {"optimizer_states": [state]}, place))
    said["what was there"] = [damage(place), sorted(path.name for path in folder.iterdir())]
    from_all_ranks(None)  # both have looked

    (mine := folder / "mine").mkdir(exist_ok=True)
    (mine / "notes.txt").write_text("mine")
    attempt(said, "somebody's folder", lambda: strategy.save_checkpoint(checkpoint(), mine))
    attempt(said, "no folder around it", lambda: strategy.save_checkpoint(checkpoint(), mine / "notes.txt" / "a.ckpt"))
    gathered = FSDP2Strategy(state_dict_type="full")
    gathered.cluster_environment, gathered.checkpoint_io = strategy.cluster_environment, SafeCheckpointIO()
    with failing(torch, "save"):
        attempt(said, "one file", lambda: gathered.save_checkpoint(checkpoint(), folder / "one.ckpt"))
    lacking = checkpoint() | ({"optimizer_states": [{}]} if rank == 1 else {})
    attempt(said, "no state of an optimizer", lambda: strategy.save_checkpoint(lacking, place))
    attempt(said, "an error of one's own", lambda: fail_together(fail_on_first))

    strategy.save_checkpoint(checkpoint() | {"global_step": 8}, place)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    leave_together()
