"""What fails in one of several processes alone is an error of all, in the same words, and none waits for another."""

import json
import os
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import FULL, attempt, failing, leave_together, run, run_on_two_ranks
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy
from reference_runs import train
from torch.distributed.device_mesh import init_device_mesh

from orpo_lightning import DPO, ORPO, PolicyConfig, PreferenceDataModule, ReferenceConfig, cli
from orpo_lightning.cache_folder import CACHE_VARIABLE
from orpo_lightning.callbacks import answers, data_report, describe_run, pair_measures, run_record
from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.callbacks.measures import KeptMeasures
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.data import cache, datamodule
from orpo_lightning.loggers import MetricsFile
from orpo_lightning.models import loading, reference, reference_store
from orpo_lightning.models.building import build_whole
from orpo_lightning.models.loading import load_causal_lm
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.reference import make_reference
from orpo_lightning.models.reference_store import ReferenceStore
from orpo_lightning.models.sharding import ShardedBuilder
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.ranks import from_all_ranks, place_among_ranks
from orpo_lightning.sharded_checkpoint import ShardedCheckpoint
from orpo_lightning.strategies import FSDP2Strategy
from orpo_lightning.testing import make_rows

PATIENCE = timedelta(seconds=60)
"""How long one waits for the other; who fails alone is noticed so."""


def is_named(name):
    return lambda path, *others, **more: Path(path).name == name


OF_CHECKPOINTS = {
    "the measures before it": lambda: failing(MetricsFile, "save"),
    "the last one": lambda: failing(torch, "save"),
    "the other name": lambda: failing(Path, "unlink", only=is_named("last.ckpt.part")),
    "the older ones": lambda: failing(Path, "unlink", only=is_named("best-step=9.ckpt.part")),
}
"""What the first process alone writes or removes under DDP."""
OF_MODELS = {
    "where it is": lambda: failing(loading, "resolve", of_rank=1),
    "its settings": lambda: failing(loading.AutoConfig, "from_pretrained", of_rank=1),
    "its weights": lambda: failing(loading.AutoModelForCausalLM, "from_pretrained", of_rank=1),
    "its adapter": lambda: failing(loading, "add_adapter", of_rank=1),
}
"""What each process reads of a model, from a disk that may be its own."""
OF_REFERENCES = {
    "the cache": lambda: failing(reference, "made_in_cache", of_rank=1),
    "the same tokens": lambda: failing(reference, "check_same_tokens", of_rank=1),
    "which it is": lambda: failing(reference, "identity_of", of_rank=1),
}
OF_DATA = {
    "the tokenizer": lambda: failing(datamodule, "load_tokenizer", of_rank=1),
    "the rows": lambda: failing(cache, "made_in_cache", of_rank=1),
}
OF_RUNS = {
    "what loggers are told": lambda: failing(describe_run, "keep_wandb_id"),
    "config.yaml": lambda: failing(Path, "write_text", only=is_named("config.yaml")),
    "data_report.json": lambda: failing(data_report, "write_reports"),
    "run.json": lambda: failing(run_record, "write_record"),
    "val_pairs.csv": lambda: failing(pair_measures, "write_pairs"),
    "answers.jsonl": lambda: failing(answers, "write_answers"),
}
"""What the first process alone writes before the first step."""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each process has said, by what failed."""
    return said_of("parts", tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def said_of_runs(tmp_path_factory):
    """The same of whole runs."""
    return said_of("runs", tmp_path_factory.mktemp("ranks"))


def said_of(what, folder):
    tiny_model("opt", torch.float64).save_pretrained(folder / "base")
    run_on_two_ranks(__file__, folder, **{CACHE_VARIABLE: str(folder / "cache"), "WHAT": what})
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(f"a checkpoint under DDP, {name}" for name in OF_CHECKPOINTS),
        *(f"a model {how}, {name}" for how in ("whole", "in parts") for name in OF_MODELS),
        *(f"a reference, {name}" for name in OF_REFERENCES),
        *(f"data, {name}" for name in OF_DATA),
        *("a checkpoint read whole", "a checkpoint read in parts", "the weights of a checkpoint in parts"),
        "what is stored of a reference",
    ],
)
def test_what_one_process_alone_cannot_do_all_say(said, name):
    check_same(*(of_rank[name] for of_rank in said))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_RUNS)
def test_what_the_first_cannot_write_before_a_first_step_all_say(said_of_runs, name):
    check_same(*(of_rank[name] for of_rank in said_of_runs))


def check_same(first, second):
    assert first == second
    assert first.startswith("OSError: ")
    assert FULL in first


def test_a_store_that_one_process_cannot_write_to_ends_no_run(said):
    assert "a store that is full" not in said[0].keys() | said[1].keys()
    assert [of_rank["told of a store"] for of_rank in said] == [False, True]


def save(folder: Path) -> None:
    """Train for a step, and save the best and the last."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "best-step=9.ckpt.part").touch()  # a kill has left it
    run(
        ORPO(),
        make_rows(8),
        make_rows(4, seed=9),
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=True,
        callbacks=[Checkpoints(), KeptMeasures(MetricsFile(folder))],
        default_root_dir=folder,
        max_epochs=1,
    )


def fit(folder: Path) -> None:
    """A step from the command line."""
    words = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=1"]
    words += ["--data.limit=16", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}"]
    with patch.object(sys, "argv", ["orpo-lightning", "fit", "--config=orpo", *words]):
        cli.run_trainer()


def score(base: str) -> None:
    """Compute the log-probabilities of a reference before a first step."""
    train(base, DPO(), max_steps=1, devices=2, strategy=DDPStrategy(process_group_backend="gloo"))


def models(said: dict[str, Any], base: str) -> None:
    policy = PolicyConfig(base, lora=loading.LoraConfig(r=2))
    ways = {"whole": build_whole, "in parts": ShardedBuilder(init_device_mesh("cpu", (2,)))}
    for how, build in ways.items():
        for name, fails in OF_MODELS.items():
            with fails():
                attempt(said, f"a model {how}, {name}", partial(build, policy, LogpModel))


def references(said: dict[str, Any], base: str) -> None:
    policy = PolicyConfig(base)
    model = LogpModel(load_causal_lm(policy))
    for name, fails in OF_REFERENCES.items():
        with fails():
            make = partial(make_reference, ReferenceConfig(base, mode="cached"), policy, model, None, build_whole)
            attempt(said, f"a reference, {name}", make)
    with failing(ReferenceStore, "read", of_rank=1):
        attempt(said, "what is stored of a reference", partial(score, base))
    writes = failing(ReferenceStore, "write", of_rank=1)
    with writes, failing(reference_store.FileLock, "acquire"), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        attempt(said, "a store that is full", partial(score, base))
    said["told of a store"] = any("cannot be kept in" in str(each.message) for each in told)


def data(said: dict[str, Any]) -> None:
    for name, fails in OF_DATA.items():
        with fails():
            attempt(said, f"data, {name}", partial(PreferenceDataModule(limit=8).setup, "fit"))


def checkpoints(said: dict[str, Any], folder: Path) -> None:
    for name, fails in OF_CHECKPOINTS.items():
        with fails():
            attempt(said, f"a checkpoint under DDP, {name}", partial(save, folder / name))
    path = folder / "one.ckpt"
    if place_among_ranks()[0] == 0:
        SafeCheckpointIO().save_checkpoint({"pytorch-lightning_version": "2.6.0", "global_step": 7}, path)
    from_all_ranks(None)
    for name, owner in {"whole": SafeCheckpointIO(), "in parts": FSDP2Strategy()}.items():
        owner.broadcast = lambda path: path
        with failing(torch, "load", of_rank=1):
            attempt(said, f"a checkpoint read {name}", partial(owner.load_checkpoint, path))
    with failing(ShardedCheckpoint, "load", of_rank=1):
        attempt(said, "the weights of a checkpoint in parts", partial(read_in_parts, folder / "parts.ckpt"))


def runs(said: dict[str, Any], folder: Path) -> None:
    for name, fails in OF_RUNS.items():
        with fails():
            attempt(said, name, partial(fit, folder / name))


def read_in_parts(path: Path) -> None:
    """Write a checkpoint that is a folder, and read its weights."""
    strategy = FSDP2Strategy()
    strategy.cluster_environment = TorchElasticEnvironment()
    strategy._lightning_module = BoringModel()
    state = strategy.lightning_module_state_dict()
    plain = {"pytorch-lightning_version": "2.6.0", "global_step": 7, "optimizer_states": []}
    strategy.save_checkpoint({**plain, "state_dict": state}, path)
    strategy.load_model_state_dict(strategy.load_checkpoint(path))


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    said: dict[str, Any] = {}
    if os.environ["WHAT"] == "parts":
        models(said, str(folder / "base"))
        references(said, str(folder / "base"))
        data(said)
        checkpoints(said, folder)
    else:
        runs(said, folder / "runs")
    (folder / f"said-{place_among_ranks()[0]}.json").write_text(json.dumps(said))
    leave_together()
