"""Processes that would go on from different checkpoints stop before they load anything."""

from pathlib import Path

import pytest

from orpo_lightning.callbacks import one_checkpoint
from orpo_lightning.callbacks.one_checkpoint import OneCheckpoint

LAST = Path("runs/orpo/checkpoints/last.ckpt")


@pytest.mark.parametrize("own", [LAST, None])
def test_processes_that_have_found_the_same_go_on(own, monkeypatch):
    monkeypatch.setattr(one_checkpoint, "from_all_ranks", lambda found: [found, found])
    OneCheckpoint(own).setup(None, None, "fit")


def test_processes_that_have_found_different_places_stop_and_name_them(monkeypatch):
    monkeypatch.setattr(one_checkpoint, "from_all_ranks", lambda found: [str(LAST), found])
    with pytest.raises(ValueError, match=f"different places: {LAST}, the beginning, in their order"):
        OneCheckpoint(None).setup(None, None, "fit")
