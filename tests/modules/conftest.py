"""A saved model with an empty store, and what a run does beside training."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from orpo_lightning.models import loading
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.reference_cache import CachedReference
from orpo_lightning.models.tiny import tiny_model


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder with a model, and an empty store."""
    monkeypatch.setenv("ORPO_LIGHTNING_CACHE", str(tmp_path / "cache"))
    tiny_model("opt", torch.float64).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


class Work:
    """What was loaded and computed: models by folder, and rows per forward pass outside of training."""

    def __init__(self):
        self.loads = Counter()
        self.forwards = []

    @property
    def rows(self):
        return sum(self.forwards)


@pytest.fixture
def work(monkeypatch):
    """Counts models that are loaded, and forward passes without gradients of any model but for validation."""
    counted = Work()
    load, forward, prepare = loading.load_together, LogpModel.forward, CachedReference.prepare
    preparing = []

    def counted_load(config):
        counted.loads[Path(config.name_or_path).name] += 1
        return load(config)

    def counted_forward(self, batch, prompt_logps=False):
        if preparing:
            assert not torch.is_grad_enabled()
            assert not self.net.training
            counted.forwards.append(len(batch))
        return forward(self, batch, prompt_logps)

    def noted(self, run):
        preparing.append(1)
        try:
            prepare(self, run)
        finally:
            preparing.clear()

    monkeypatch.setattr(loading, "load_causal_lm", counted_load)
    monkeypatch.setattr("orpo_lightning.models.building.load_together", counted_load)
    monkeypatch.setattr(LogpModel, "forward", counted_forward)
    monkeypatch.setattr(CachedReference, "prepare", noted)
    return counted
