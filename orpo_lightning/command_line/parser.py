"""The parser of the trainer's verbs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from omegaconf.errors import OmegaConfBaseException

from orpo_lightning.command_line.config_files import ConfigFile, as_typed
from orpo_lightning.command_line.errors import Typed, explain
from orpo_lightning.command_line.interpolation import as_typed_references, with_references
from orpo_lightning.command_line.messages import reason_of, value_of
from orpo_lightning.command_line.options import Option, default_options, options_of_parser
from orpo_lightning.command_line.private_parts import actions_of, check_null, is_block, verbs_of
from orpo_lightning.one_line import in_line
from orpo_lightning.secrets import PLACEHOLDER, hide_named, left_out, remember, remember_words
from orpo_lightning.user_loggers import leave_folder_open

_LONGEST = 2000
"""Characters of a message."""


class Parser(LightningArgumentParser):
    """Finds shipped configurations by their short names, and answers a mistake in one line.

    Attributes:
        files: the configuration files that were read, with the lines of their keys.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # the parsers of classes are made without it
        super().__init__(*args, **kwargs)
        self.files: dict[Path, dict[str, int]] = {}

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class; the folder of a logger is by default that of the run."""
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        if isinstance(theclass, type) and issubclass(theclass, Logger):
            leave_folder_open(actions_of(self))
        return added

    def add_config_argument(self) -> None:
        """Add the option for configuration files."""
        self.add_argument("-c", "--config", action=ConfigFile, help="a configuration: a file, or one that is shipped")

    @property
    def options(self) -> tuple[Option, ...]:
        """All options, those of the default module, objective and data included."""
        return (*options_of_parser(self), *default_options())

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, options over configuration files wherever these stand; say in one line what cannot be resolved."""
        words, *others = args or [None]
        try:
            words = sys.argv[1:] if words is None else words
            remember_words(words)
            for word in words:
                if "\0" in word:  # from Python alone: the system hands none on
                    self._end(hide_named(f"{word!r} holds a NUL character; accepted: text without one"))
            words = _files_first(with_references(words), after=bool(verbs_of(self)))
            return self._with_secrets(super().parse_args(words, *others, **kwargs))
        except OmegaConfBaseException as error:
            reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0]).strip('"')
            self.error(f'Parser key "{as_typed(error.full_key or "")}":\n  {reason}', error)

    def _with_secrets(self, config: Namespace) -> Namespace:
        """The settings that were read, if none of them is a secret that was left out where they were kept."""
        settings = config.as_dict()
        remember(settings)
        for key in left_out(settings):
            self.error(_left_out(as_typed(key)))
        return config

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write settings, whose secrets are known from now on: where they are printed, defaults of classes are too."""
        remember(namespace.as_dict())
        return str(super().dump(namespace, *args, **kwargs))

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Check the values, also those that are null.

        jsonargparse takes null as a value that is not set, and where it is typed for a text as the text None.
        """
        super().validate(namespace, *args, **kwargs)
        for action in actions_of(self):
            if is_block(action) and namespace.get(action.dest, action) is None:
                raise TypeError(f"Parser key \"{action.dest}\":\n  Unable to load config 'null'")
            if action.default is not None and namespace.get(action.dest, action.default) in (None, "None", "null"):
                check_null(self, action, namespace)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with one line; the parsers of single classes raise, as the one around them expects."""
        if not self.exit_on_error:
            super().error(message, ex)
        verbs = verbs_of(self)
        verb = next((word for word in sys.argv[1:2] if word in verbs), "")
        parser = verbs.get(verb, self)
        if value_of(message) == PLACEHOLDER:
            message = _left_out(reason_of(message).key)
        message = hide_named(message.replace(f'"{verb}.', '"') if verb else message)
        typed = Typed(self.args, parser.files, parser.options)
        self._end(as_typed_references(explain(message, typed)))

    def _end(self, said: str) -> NoReturn:
        self.exit(2, f"orpo-lightning: {in_line(said, _LONGEST)}\n")


def _left_out(key: str) -> str:
    """What is said of a secret that is not there, as jsonargparse would say it."""
    said = f"{PLACEHOLDER} stands for a secret that was left out here; set it, best to ${{oc.env:NAME}}, a variable"
    return f'Parser key "{key}":\n  {said} of the environment'


def _files_first(words: Sequence[str], after: int) -> list[str]:
    """The words of a command line with its configuration files, in their order, before all other options.

    Args:
        words: the words.
        after: how many of them, such as the verb, stay in front.

    Example:
        >>> _files_first(["fit", "--data.limit", "3", "--config", "orpo", "-c=mine.yaml"], after=1)
        ['fit', '--config', 'orpo', '-c=mine.yaml', '--data.limit', '3']
    """
    files: list[str] = []
    others = list(words[after:])
    for i in range(len(others) - 1, -1, -1):
        option, equals, _ = others[i].partition("=")
        if option in ("-c", "--config"):
            has_value = not equals and i + 1 < len(others) and not others[i + 1].startswith("-")
            files[:0] = others[i : i + 1 + has_value]
            del others[i : i + 1 + has_value]
    return [*words[:after], *files, *others]
