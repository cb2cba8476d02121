"""The command, as a user types it, in a folder of their own."""

import sys

import pytest

from orpo_lightning.__main__ import main


@pytest.fixture
def orpo_lightning(tmp_path, monkeypatch, only_built_in_objectives):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", *map(str, arguments)])
        main()

    return run
