"""For doctests and tests: no network, and objectives defined in one test are unknown to the next."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from orpo_lightning import objectives
from orpo_lightning.cache_folder import CACHE_VARIABLE, cache_folder
from orpo_lightning.objectives import base


def pytest_configure(config):
    """Converted models are kept from session to session, everything else that is cached is made anew."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    config.cache_of_session = Path(tempfile.mkdtemp(prefix="orpo_lightning-"))
    (config.cache_of_session / "models").symlink_to(models)
    os.environ[CACHE_VARIABLE] = str(config.cache_of_session)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share a fixture of their module go to one process, which makes it once."""
    for item in items:
        found = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        shared = any(definition.scope == "module" for each in found.values() for definition in each)
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


def pytest_unconfigure(config):
    shutil.rmtree(config.cache_of_session, ignore_errors=True)


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    monkeypatch.setattr(base, "_registry", {name: list(classes) for name, classes in base._registry.items()})


@pytest.fixture
def only_built_in_objectives(_registry_as_it_was):
    """As in a process of its own: the objectives that test modules define are not known."""
    for name, classes in base._registry.items():
        base._registry[name] = [cls for cls in classes if getattr(objectives, cls.__name__, None) is cls]
    for name in [name for name, classes in base._registry.items() if not classes]:
        del base._registry[name]
