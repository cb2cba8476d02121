"""What fails in one of several processes alone is an error of all, in the same words, and none waits for another."""

import json
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import FULL, attempt, failing, leave_together, run, run_on_two_ranks
from lightning.pytorch.strategies import DDPStrategy

from orpo_lightning import ORPO
from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.ranks import place_among_ranks
from orpo_lightning.testing import make_rows

PATIENCE = timedelta(seconds=60)
"""How long one waits for the other; who fails alone is noticed so."""


def is_named(name):
    return lambda path, *others: Path(path).name == name


OF_CHECKPOINTS = {
    "the last one": lambda: failing(torch, "save"),
    "the other name": lambda: failing(Path, "unlink", only=is_named("last.ckpt.part")),
    "the older ones": lambda: failing(Path, "unlink", only=is_named("best-step=9.ckpt.part")),
}
"""What the first process alone writes or removes under DDP."""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each process has said, by what failed."""
    folder = tmp_path_factory.mktemp("ranks")
    run_on_two_ranks(__file__, folder)
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", OF_CHECKPOINTS)
def test_under_ddp_what_the_first_process_cannot_do_about_checkpoints_all_say(said, name):
    first, second = (of_rank[name] for of_rank in said)
    assert first == second
    assert first.startswith("OSError: ")
    assert FULL in first


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
        callbacks=[Checkpoints()],
        default_root_dir=folder,
        max_epochs=1,
    )


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    said: dict[str, str] = {}
    for name, fails in OF_CHECKPOINTS.items():
        with fails():
            attempt(said, name, partial(save, folder / name))
    (folder / f"said-{place_among_ranks()[0]}.json").write_text(json.dumps(said))
    leave_together()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
