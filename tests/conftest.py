"""The command, as a user types it, in a folder of their own."""

import os
import subprocess
import sys
from importlib.resources import files

import pytest

from orpo_lightning.__main__ import main
from orpo_lightning.callbacks import summary
from orpo_lightning.data import sources


@pytest.fixture
def orpo_lightning(tmp_path, monkeypatch, only_built_in_objectives):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", *map(str, arguments)])
        main()

    return run


@pytest.fixture(scope="module")
def short_sample(tmp_path_factory):
    """The sample of the package is a fifth of it, for commands of which only that they run counts."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "data" / "samples").mkdir(parents=True)
    for split, rows in (("train", 48), ("validation", 12)):
        name = f"data/samples/{split}.jsonl"
        lines = files("orpo_lightning").joinpath(name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:rows]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "files", lambda package: folder)
        yield


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """The folder of a run of the command in a process of its own, as it is shipped, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "orpo_lightning", "fit", "--config=orpo", "--model.policy.disable_dropout=false"]
    environment = os.environ | {"PYTHONWARNINGS": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Have one process make the run for all tests of it."""
    for item in items:
        if "whole_run" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("the whole run"))


@pytest.fixture(autouse=True)
def _without_pictures(request, monkeypatch):
    """Fits draw no curves, which take a quarter of the time of a short one, but for tests marked with `pictures`."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(summary, "draw_curves", lambda folder, path: None)
