"""A checkpoint that is named on the command line and is not there."""

import os
from pathlib import Path


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
