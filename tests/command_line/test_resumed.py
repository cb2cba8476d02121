"""--ckpt_path never overrides the command line, and what differs is said."""

import os
from pathlib import Path

import pytest
import yaml

from orpo_lightning.command_line.resumed import changes_since

SHORT = [
    "--config=orpo",
    "--trainer.enable_progress_bar=false",
    "--trainer.limit_val_batches=1",
    "--export.enabled=false",
]


@pytest.fixture
def checkpoint(orpo_lightning):
    orpo_lightning("fit", *SHORT, "--trainer.max_steps=2")
    (found,) = Path("runs/orpo/checkpoints").glob("*.ckpt")
    return found


def test_what_differs_from_the_run_of_the_checkpoint_is_said_and_holds(orpo_lightning, checkpoint, notes):
    orpo_lightning(
        *("fit", *SHORT, "--trainer.max_steps=4", "--ckpt_path", checkpoint),
        *("--model.optimizer.lr=5e-6", "--model.objective.lambda_=0.5", "--data.num_workers=0"),
    )
    assert [line for line in notes if line.startswith("resumes with")] == [
        "resumes with model.objective.lambda_ = 0.5 (the run had 0.1)",
        "resumes with model.optimizer.lr = 5e-06 (the run had 0.001)",
    ]
    saved = yaml.safe_load(Path("runs/orpo/config-2.yaml").read_text())["model"]["init_args"]
    assert saved["optimizer"]["lr"] == 5e-6
    assert saved["objective"]["init_args"]["lambda_"] == 0.5


def test_nothing_is_said_of_what_is_the_same_or_does_not_matter(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    saved = {
        "model": {"class_path": "A", "init_args": {"lr": 1, "lora": {"r": 0}}},
        "data": {"class_path": "B", "init_args": {"num_workers": 0, "limit": None}},
        "trainer": {"max_steps": 3},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    file = run / "checkpoints" / "last.ckpt"
    assert not list(changes_since(file, yaml.safe_dump(saved)))
    now = {**saved, "data": {"class_path": "B", "init_args": {"num_workers": 2, "limit": 5}}, "trainer": {}}
    assert list(changes_since(file, yaml.safe_dump(now))) == ["resumes with data.limit = 5 (the run had null)"]
    assert not list(changes_since(tmp_path / "elsewhere" / "last.ckpt", yaml.safe_dump(now)))


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(refusal):
    folder = Path("runs/orpo/checkpoints")
    folder.mkdir(parents=True)
    for age, name in enumerate(("new.ckpt", "old.ckpt")):
        (folder / name).touch()
        os.utime(folder / name, ns=(10**18 - age * 10**12,) * 2)
    there = "there are, the newest first: runs/orpo/checkpoints/new.ckpt, runs/orpo/checkpoints/old.ckpt"
    for verb in ("fit", "validate"):
        assert refusal(verb, "--config=orpo", "--ckpt_path=gone.ckpt") == (
            f"ckpt_path = gone.ckpt is not there; accepted: a checkpoint; {there}"
        )
    assert refusal("fit", "--config=sft", "--ckpt_path", folder / "gone.ckpt") == (
        f"ckpt_path = {folder}/gone.ckpt is not there; accepted: a checkpoint; {there}"
    )
    assert refusal("fit", "--config=orpo", "--ckpt_path=runs/orpo") == (
        f"ckpt_path = runs/orpo is the folder of a run; accepted: a checkpoint; {there}"
    )
    assert refusal("fit", "--config=sft", "--ckpt_path=gone.ckpt").endswith("a checkpoint; there are none beside it")
