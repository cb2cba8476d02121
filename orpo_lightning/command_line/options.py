"""The options of a class, as its signature and docstring tell them: for help, completion and advice."""

from __future__ import annotations

import functools
import importlib
import re
from argparse import SUPPRESS
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser

from orpo_lightning.command_line.private_parts import actions_of, is_block, type_of

_LONG = 120
DEFAULT_CLASSES = {
    "model": "orpo_lightning.PreferenceModule",
    "model.objective": "orpo_lightning.ORPO",
    "data": "orpo_lightning.PreferenceDataModule",
}
"""By key, where neither the command line nor a configuration file names another."""
CLASSES_OF_RUN = {
    "checkpoint": "orpo_lightning.callbacks.checkpoints.Checkpoints",
    "health": "orpo_lightning.callbacks.health.Health",
    "export": "orpo_lightning.callbacks.export.ExportModel",
    "summary": "orpo_lightning.callbacks.summary.Summary",
    "throughput": "orpo_lightning.callbacks.throughput.Throughput",
}
"""By key, of the callbacks with settings that every fit has."""


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        key: what is typed after ``--``.
        help: from the docstring, without markup.
        default: as it is typed; None where there is none.
        choices: the values it accepts, where these are few.
        classes: those of which a subclass can be named.
    """

    key: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    classes: tuple[type, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of its help; of a long one, up to its first pause."""
        sentence = _up_to(r"(?<!\beq)\.\s", self.help)
        return (sentence if len(sentence) < _LONG else _up_to("; ", sentence)).rstrip(".")


@functools.cache
def options_of(cls: type, prefix: str) -> tuple[Option, ...]:
    """The options that set the arguments of a class, those of its dataclasses included.

    Args:
        cls: the class.
        prefix: the key of the class itself.

    Example:
        >>> from orpo_lightning import ORPO
        >>> options_of(ORPO, "model.objective")[0].key
        'model.objective.lambda_'
    """
    parser = ArgumentParser()
    parser.add_class_arguments(cls, prefix, fail_untyped=False, instantiate=False)
    return tuple(option for option in options_of_parser(parser) if option.key.startswith(f"{prefix}."))


def options_of_parser(parser: ArgumentParser) -> tuple[Option, ...]:
    """The options of a parser."""
    return tuple(
        Option(
            action.dest,
            _plain(action.help or ""),
            _typed(action.default),
            tuple(dict.fromkeys(_choices(type_of(action)))),
            tuple(_classes(type_of(action))),
        )
        for action in actions_of(parser)
        if any(word.startswith("--") for word in action.option_strings)
        and not action.dest.endswith(("help", SUPPRESS))
        and action.help != SUPPRESS
        and not is_block(action)  # whose settings are listed one by one
    )


def default_options() -> tuple[Option, ...]:
    """The options of the module, the objective and the data that a run has where no other is named."""
    return tuple(
        option
        for key, path in DEFAULT_CLASSES.items()
        for cls in [import_class(path)]
        if cls is not None
        for option in options_of(cls, key)
    )


def import_class(path: str) -> type | None:
    """The class of that import path; None if there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None
    return found if isinstance(found, type) else None


def options_of_run() -> tuple[Option, ...]:
    """The options for what a fit leaves behind."""
    found = ((key, import_class(path)) for key, path in CLASSES_OF_RUN.items())
    return tuple(option for key, cls in found if cls is not None for option in options_of(cls, key))


def _up_to(pattern: str, text: str) -> str:
    """The text up to a pattern; what is in brackets is not cut.

    Example:
        >>> _up_to("; ", "a list (eq. 2; or none), or text; more")
        'a list (eq. 2; or none), or text'
    """
    starts = (each.start() for each in re.finditer(pattern, text))
    return text[: next((i for i in starts if text.count("(", 0, i) == text.count(")", 0, i)), len(text))]


def _classes(typehint: Any) -> Iterator[type]:
    if isinstance(typehint, type) and get_origin(typehint) is None:
        if typehint.__module__ not in ("builtins", "datetime", "pathlib"):
            yield typehint
    elif get_origin(typehint) is not Literal:
        for part in get_args(typehint):
            yield from _classes(part)


def _choices(typehint: Any) -> list[str]:
    if typehint is bool:
        return ["true", "false"]
    if get_origin(typehint) is Literal:
        return [str(value) for value in get_args(typehint)]
    return [choice for part in get_args(typehint) if get_origin(typehint) is not list for choice in _choices(part)]


def _typed(value: Any) -> str | None:
    if value is None or value in ([], {}, SUPPRESS):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    text = re.sub(r"\s*Default: .*", "", text, flags=re.DOTALL)
    text = re.sub(r"\bNone\b", "null", text)  # as it is typed
    return " ".join(text.replace("`", "").split())
