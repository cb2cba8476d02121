"""For doctests and tests: no network, and objectives defined in one test are unknown to the next."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from orpo_lightning.objectives import base


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    monkeypatch.setattr(base, "_registry", {name: list(classes) for name, classes in base._registry.items()})
