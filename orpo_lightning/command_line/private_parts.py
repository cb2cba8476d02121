"""What is borrowed from the private parts of jsonargparse, all in one place."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace, _typehints

from orpo_lightning.objectives import get_objective


def actions_of(parser: ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser, blocks of them among these."""
    yield from parser._actions


def type_of(action: argparse.Action) -> Any:
    """The type that the value of an argument has; None where it has none that is annotated."""
    return getattr(action, "_typehint", None)


def is_block(action: argparse.Action) -> bool:
    """Whether it stands for a block of settings, which are arguments themselves."""
    return type(action).__name__ == "_ActionConfigLoad"


def verbs_of(parser: ArgumentParser) -> Mapping[str, Any]:
    """The parsers of the verbs of a parser, by name."""
    action = parser._subcommands_action
    return dict(action.choices or {}) if action else {}


def check_null(parser: ArgumentParser, action: argparse.Action, values: Namespace) -> None:
    """Insist that an argument may be null.

    Raises:
        TypeError: it may not.
    """
    parser._check_value_key(action, None, action.dest, values)


def start_objectives_afresh() -> None:
    """Start a newly named objective from its own defaults.

    jsonargparse keeps the arguments of the class named before that the new one has too: DPO's ``beta`` of 0.1 would
    become SimPO's, whose default is 2.
    """
    _typehints.discard_init_args_on_class_path_change = _discard_arguments_of_another_objective


_discard_unknown_arguments = _typehints.discard_init_args_on_class_path_change


def _discard_arguments_of_another_objective(parser: Any, previous: Any, value: Any) -> None:
    if previous and value["class_path"] != previous["class_path"] and _is_objective(previous["class_path"]):
        for name in list(previous.get("init_args", {}).keys()):
            previous["init_args"].pop(name)
    else:
        _discard_unknown_arguments(parser, previous, value)  # type: ignore[no-untyped-call]  # it is not annotated


def _is_objective(class_path: str) -> bool:
    try:
        get_objective(class_path)
    except ValueError:
        return False
    return True
