"""A run that is killed at any moment and started again by the same command ends where one that was not ends (P7)."""

import random

import pytest
import torch
from killed_runs import MOMENTS, MOMENTS_OF_FOLDERS, OF_ALL_RANKS, killed_and_resumed, rows_of

from orpo_lightning.checkpoint_io import SafeCheckpointIO

KILL = -9
BASE = [
    "fit",
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--data.limit=36", "--data.global_batch_size=8", "--trainer.accumulate_grad_batches=2"),
    *("--trainer.max_epochs=2", "--trainer.val_check_interval=4", "--trainer.num_sanity_val_steps=-1"),
    *("--model.optimizer.lr=1e-2", "--ckpt_path=last"),
]
RUNS = {
    "orpo": ["--model.objective=ORPO", "--checkpoint.every_n_steps=1"],
    "dpo": ["--model.objective=DPO", "--checkpoint.every_n_steps=2"],
    "lora": [
        *("--model.objective=DPO", "--model.policy.lora.r=4", "--checkpoint.every_n_steps=1"),
        "--model.policy.lora.dropout=0.1",
    ],
}


def assert_equal_runs(found, expected):
    assert files_of(found) == files_of(expected)
    for path in (expected / "checkpoints").iterdir():
        assert_equal_checkpoints(found / "checkpoints" / path.name, path)
    assert rows_of(found) == rows_of(expected)
    assert [*rows_of(found)[0]] == [*rows_of(expected)[0]]
    texts = ["model/model.safetensors", "config.yaml", "data_report.json", "val_pairs.csv"]
    if (expected / "answers.jsonl").exists():  # not of weights that are shared out
        texts.append("answers.jsonl")
    for name in texts:
        left, right = ((run / name).read_bytes() for run in (found, expected))
        assert left.replace(found.name.encode(), expected.name.encode()) == right, name


def assert_equal_checkpoints(found, expected):
    ours, theirs = (SafeCheckpointIO().load_checkpoint(path) for path in (found, expected))
    assert ours["global_step"] == theirs["global_step"], found
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
    for moments, wanted in zip(_tensors(ours["optimizer_states"]), _tensors(theirs["optimizer_states"]), strict=True):
        assert torch.equal(moments, wanted)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def files_of(run):
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def compare(tmp_path, options, kills, steps, ranks=1):
    command = [*BASE, *options]
    (straight, parts), said = killed_and_resumed(
        tmp_path,
        ([*command, "--trainer.default_root_dir=straight"], []),
        ([*command, "--trainer.default_root_dir=parts"], kills),
        ranks=ranks,
        timeout=600 * ranks**2,  # processes wait for each other
    )
    assert straight == [0]
    assert len(parts) == len(kills) + 1, said
    assert parts[-1] == 0, said
    assert_equal_runs(tmp_path / "parts", tmp_path / "straight")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["parts", "straight"]
    rows = rows_of(tmp_path / "straight")
    assert [int(row["step"]) for row in rows] == list(range(steps + 1))
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [
        0,
        *(s for s in range(1, steps) if s % 5 in (2, 4)),
        steps,
    ]
    return [end == KILL for end in parts[:-1]]


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_amid_a_write_and_in_a_validation(tmp_path):
    kills = [("loading", 1, 0), ("writing", 2, 0), ("validation", 3, 0)]
    # processes that pack batches outlive the one that is killed by some seconds
    options = [*RUNS["orpo"], "--trainer.max_epochs=1", "--data.num_workers=2"]
    assert all(compare(tmp_path, options, kills, steps=5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("name", RUNS)
def test_killed_at_twenty_random_moments(tmp_path, name, seed):
    draw = random.Random(seed)
    kills = [
        (moment, draw.randint(1, most), draw.choice([0, 0, draw.uniform(0, 0.05)]))
        for moment, most in MOMENTS.items()
        for _ in range(3)
    ]
    draw.shuffle(kills)
    killed = compare(tmp_path, [*RUNS[name], "--trainer.max_epochs=6"], [*kills, ("end", 1, 0)], steps=30)
    assert sum(killed) >= 20
    assert {moment for (moment, *_), hit in zip(kills, killed, strict=False) if hit} == MOMENTS.keys()


ON_TWO_RANKS = {
    "fsdp2": (MOMENTS_OF_FOLDERS, {*OF_ALL_RANKS, "writing"}),
    "ddp": (MOMENTS, OF_ALL_RANKS),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ON_TWO_RANKS)
def test_either_of_two_ranks_killed_at_twenty_random_moments(tmp_path, strategy):
    draw, (moments, of_all) = random.Random(2), ON_TWO_RANKS[strategy]
    kills = [
        (
            moment,
            draw.randint(1, most),
            draw.choice([0, 0, draw.uniform(0, 0.05)]),
            draw.randrange(2) if moment in of_all else 0,
        )
        for moment, most in moments.items()
        for _ in range(3)
    ]
    draw.shuffle(kills)
    options = [*RUNS["orpo"], f"--trainer.strategy={strategy}", "--trainer.accelerator=cpu"]
    options += ["--trainer.devices=2", "--trainer.accumulate_grad_batches=1", "--trainer.val_check_interval=2"]
    options += ["--trainer.max_epochs=6"]
    killed = compare(tmp_path, options, [*kills, ("end", 1, 0, 0)], steps=30, ranks=2)
    assert sum(killed) >= 20
    assert {moment for (moment, *_), hit in zip(kills, killed, strict=False) if hit} == moments.keys()
