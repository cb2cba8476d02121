"""The command, as a user types it, where it is expected to end with a message."""

import importlib
import logging
import pkgutil
import sys

import pytest

import orpo_lightning as package
from orpo_lightning.__main__ import console
from orpo_lightning.command_line import errors
from orpo_lightning.data import datamodule
from orpo_lightning.models import building, tokenizer

# all of it imported here: what modules take from each other must not be what the fixture puts in its place
for each in pkgutil.walk_packages(package.__path__, "orpo_lightning."):
    importlib.import_module(each.name)


def is_not_of_a_test(cls):
    of_packages = cls.__module__.startswith(("orpo_lightning.", "lightning."))
    return of_packages and not cls.__module__.startswith("lightning.pytorch.demos")


@pytest.fixture
def refusal(orpo_lightning, monkeypatch, capsys):
    """What the command says when it refuses; it must have loaded neither a model nor a tokenizer."""
    # what other tests define is no class of a user's here
    monkeypatch.setattr(errors, "_below", lambda base, real=errors._below: filter(is_not_of_a_test, real(base)))
    for module, name in ((building, "load_together"), (datamodule, "load_tokenizer"), (tokenizer, "load_tokenizer")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("something was loaded"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            console()
        printed = capsys.readouterr()
        message = printed.err if end.value.code == 2 else str(end.value.code)
        return message.removeprefix("orpo-lightning: ").removesuffix("\n")

    return run


@pytest.fixture
def notes():
    """The lines that a run says of itself."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield said
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def printed_config(orpo_lightning, capsys):
    """The text that --print_config prints."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            orpo_lightning(*arguments, "--print_config")
        printed = capsys.readouterr()
        assert end.value.code == 0, printed.err
        return printed.out

    return run
