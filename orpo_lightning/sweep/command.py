"""The command of a sweep file as the words of a fit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from orpo_lightning.secrets import secret_option
from orpo_lightning.sweep.block import Block

USUAL = ("${env}", "${interpreter}", "${program}", "${args}")
"""The command of a file without one."""
ARGS = "${args}"
KEPT = (
    "a secret that the folder of the sweep would keep; accepted: ${oc.env:NAME}, a variable of the environment, or the "
    "setting in a file that --config names"
)
"""What is said of a secret."""
_MACRO = re.compile(r"\$\{(env|interpreter|program|args\w*)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_OURS = ("orpo-lightning", "orpo_lightning")
_ACCEPTED = "accepted: the words ${env} ${program} fit ${args} and options, with program: orpo-lightning"


@dataclass(frozen=True)
class Command:
    """What a trial runs.

    Args:
        words: of the command line, from the verb on; ``${args}`` stands for the parameters.
    """

    words: tuple[str, ...]

    def fit(self, parameters: Mapping[str, Any]) -> list[str]:
        """The words of a trial.

        Args:
            parameters: values by name.

        Example:
            >>> Command(("fit", "--config", "orpo", "${args}")).fit({"data.limit": 8, "checkpoint.monitor": None})
            ['fit', '--config', 'orpo', '--data.limit=8', '--checkpoint.monitor=null']
        """
        options = [f"--{name}={as_typed(value)}" for name, value in parameters.items()]
        return [part for word in self.words for part in (options if word == ARGS else [word])]

    @property
    def after_parameters(self) -> tuple[str, ...]:
        """The words that go over the parameters."""
        return self.words[self.words.index(ARGS) + 1 :]


def options_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """The options among the words of a command line, each with its value.

    Example:
        >>> options_of(["fit", "--data.limit=8", "--config", "orpo"])
        [('--data.limit', '8'), ('--config', 'orpo')]
    """
    found = []
    for word, following in zip(words, (*words, "")[1:], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            found.append((option, value if equals else following))
    return found


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line.

    Example:
        >>> [as_typed(value) for value in (0.1, True, None, "orpo", ["a", "b"])]
        ['0.1', 'true', 'null', 'orpo', '["a", "b"]']
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_command(block: Block) -> Command:
    """The command of a sweep file, which has to be a fit.

    Args:
        block: the whole file.

    Raises:
        ValueError: it runs another program or verb, or has a macro that a fit cannot take.
    """
    given = block.value("command") if "command" in block else list(USUAL)
    if not isinstance(given, list):
        raise block.mistake("command", f"= {given!r} is not a list of words; {_ACCEPTED}")
    secret = secret_option([str(word) for word in given])
    if secret is not None:
        raise block.mistake("command", f"has {secret}, {KEPT}")
    words = [_expanded(block, str(word)) for word in given]
    kept = _without_program(words, block.text("program"))
    if kept is None:
        raise block.mistake("command" if "command" in block else "program", f"runs another program; {_ACCEPTED}")
    if kept[:1] != ["fit"]:
        raise block.mistake("command", f"runs the verb {' '.join(kept[:1]) or 'of nothing'}; {_ACCEPTED}")
    if ARGS not in kept:
        raise block.mistake("command", f"has no {ARGS}, so that all trials would be the same; {_ACCEPTED}")
    return Command(tuple(kept))


def _expanded(block: Block, word: str) -> str:
    macro = _MACRO.fullmatch(word)
    if macro is not None and macro[1].startswith("args") and word != ARGS:
        raise block.mistake("command", f"has {word}, which a fit cannot read; accepted: {ARGS}")

    def value_of(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise block.mistake("command", f"asks for the environment variable {found[1]}, which is not set")
        return os.environ[found[1]]

    return _VARIABLE.sub(value_of, word)


def _without_program(words: Sequence[str], program: str) -> list[str] | None:
    """What follows the name of this program; None where another one is run."""
    rest = [program if word == "${program}" else word for word in words]
    while rest and (rest[0] in ("${env}", "${interpreter}", "-m") or _is_interpreter(rest[0])):
        del rest[0]
    return rest[1:] if rest and PurePath(rest[0]).name in _OURS else None


def _is_interpreter(word: str) -> bool:
    return re.fullmatch(r"env|python(\d(\.\d+)?)?", PurePath(word).name) is not None
