"""Settings that lower what a step needs: each is typed as it is printed, and gives the run that was estimated."""

import shlex
import sys
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from helpers import slow, slow_but

from orpo_lightning.commands.estimate import _EstimateCLI, setup_of
from orpo_lightning.memory import Footprint, Moment, Parts
from orpo_lightning.modules import estimate
from orpo_lightning.modules.estimate import Estimate, remedies, that_fit
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

INFO = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)
ON_TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2")
SITUATIONS = {
    "one process": (),
    "one row for each of two micro-batches": ("--data.global_batch_size=2", "--trainer.accumulate_grad_batches=2"),
    "an uneven number of rows": ("--data.global_batch_size=7", "--trainer.accumulate_grad_batches=2"),
    "copies": (*ON_TWO, "--trainer.strategy=ddp", "--model.objective=DPO"),
    "parts by a short name": (*ON_TWO, "--trainer.strategy=fsdp2", "--trainer.accumulate_grad_batches=2"),
    "parts by the layer": ("--config=trainer/fsdp2", *ON_TWO, "--trainer.accumulate_grad_batches=2"),
    "parts in a file and in the host": (
        *("--config=trainer/fsdp2", "--trainer.devices=2", "--trainer.accumulate_grad_batches=2"),
        *("--trainer.strategy.state_dict_type=full", "--trainer.strategy.cpu_offload=true"),
        *("--trainer.strategy.timeout=2:00:00", "--trainer.strategy.process_group_backend=gloo"),
    ),
    "parts that wait for each other without end": (
        *(*ON_TWO, "--trainer.strategy=FSDP2Strategy", "--trainer.strategy.timeout=null"),
        "--trainer.accumulate_grad_batches=2",
    ),
    "parts of GPUs by FSDP1": ("--trainer.strategy=fsdp", "--trainer.accelerator=gpu", "--trainer.devices=2"),
    "two machines": (*ON_TWO, "--trainer.strategy=fsdp2", "--trainer.num_nodes=2"),
    "an adapter, compiled": ("--model.policy.lora.r=4", "--model.policy.compile_layers=true"),
}
BY_DEFAULT = {
    **{"state_dict_type": "sharded", "cpu_offload": False, "process_group_backend": None},
    "timeout": timedelta(minutes=30),
}


@pytest.fixture
def parsed(only_built_in_objectives, monkeypatch):
    """The run that words on the command line describe, by its setup, its data and the settings of its trainer."""

    def parse(*words):
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", "estimate", "--config", "orpo", *words])
        cli = _EstimateCLI.of_verb("estimate")
        trainer = cli.config["trainer"]
        return setup_of(cli.made["model"], cli.made["data"], trainer), cli.made["data"], trainer

    return parse


@pytest.fixture(autouse=True)
def rough_estimates(monkeypatch):
    """A step by a rule of thumb, as what counts here is which settings there are, and in which order they are tried."""

    def parts(size):
        return Parts(size // 5, size - size // 5, size // 5)

    def rough(step, batch):
        weights = 500 if step.policy.dtype == "bfloat16" else 1000
        trained = weights // 10 if step.policy.lora.is_used else weights
        activations = 100 * batch.num_tokens // (4 if step.policy.gradient_checkpointing else 1)
        activations //= 1 if step.autocast is None else 2
        second = Parts() if step.reference is None else parts(weights)
        moments = [Moment("head", activations), Moment("backward", activations, root_gradients=trained // 5)]
        every = (parts(weights), parts(weights), parts(trained), parts(trained), parts(trained))
        return Footprint(*every, 2 * trained, 0, second, second, moments, step.adds_up)

    monkeypatch.setattr(estimate, "footprint_of", rough)


def batch_of(setup):
    """The micro-batch with the most rows."""
    return pack(make_rows(-(-setup.global_batch_size // setup.micro_batches)), INFO)


def all_else(trainer):
    """What is set of a strategy beside when it averages gradients."""
    given = getattr(trainer.strategy, "init_args", {})
    return {name: given.get(name, default) for name, default in BY_DEFAULT.items()}


def advice_on(setup):
    """What is printed, of steps as they are and of devices on which they fit closely, hardly and not at all."""
    found = Estimate.of(setup, batch_of(setup))
    yield from remedies(found)
    for share in (0.9, 0.3, 0.1):
        yield from that_fit(found, int(share * found.need.total))


@pytest.mark.parametrize("situation", slow_but(["parts by a short name", "copies"], SITUATIONS))
def test_each_is_typed_as_it_is_printed_and_gives_the_run_that_was_estimated(parsed, situation):
    setup, _, before = parsed(*SITUATIONS[situation])
    advised = {each.setting: each.estimate.setup for each in advice_on(setup)}
    assert advised
    for setting, estimated in advised.items():
        found, data, trainer = parsed(*SITUATIONS[situation], *shlex.split(setting))
        words = {"average_often": estimated.average_often}  # those are other words for the same
        assert replace(found, **words) == estimated, setting
        data.check_global_batch(
            SimpleNamespace(world_size=found.sharing.processes, accumulate_grad_batches=found.accumulate)
        )
        assert all_else(trainer) == all_else(before), "such as how checkpoints are written"


@pytest.mark.parametrize(
    ("situation", "settings"),
    [
        ("one row for each of two micro-batches", set()),
        ("an uneven number of rows", {"--trainer.accumulate_grad_batches 4"}),
        (
            "parts by a short name",
            {
                "--trainer.accumulate_grad_batches 4",
                "--trainer.num_nodes 2",
                "--trainer.strategy FSDP2Strategy --trainer.strategy.synchronize micro_batch",
            },
        ),
        ("two machines", {"--trainer.accumulate_grad_batches 2", "--trainer.num_nodes 4"}),
    ],
)
def test_the_settings_of_the_trainer_are_these(parsed, situation, settings):
    setup, _, _ = parsed(*SITUATIONS[situation])
    advised = {each.setting for each in remedies(Estimate.of(setup, batch_of(setup)))}
    of_strategy = {each for each in advised if "--trainer." in each and "precision" not in each}
    assert of_strategy == settings


@pytest.mark.parametrize(("situation", "machines"), [("parts by a short name", 2), slow("two machines", 4)])
def test_more_processes_are_said_to_take_more_machines(parsed, situation, machines):
    setup, _, _ = parsed(*SITUATIONS[situation])
    effects = {each.setting: each.effect for each in remedies(Estimate.of(setup, batch_of(setup)))}
    said = f"the same numbers, on {machines} machines: {2 * machines} devices in place of {machines}"
    assert effects[f"--trainer.num_nodes {machines}"] == said
