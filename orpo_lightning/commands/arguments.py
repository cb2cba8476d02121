"""The command line of a verb: whole names only, and mistakes answered in one line."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from orpo_lightning.secrets import hide_named

_LIKENESS = 0.75
"""Of a name to one that is meant."""


class VerbParser(argparse.ArgumentParser):
    """A parser for the options of one verb.

    Args:
        verb: its name.
        description: what it does.
    """

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"orpo-lightning {verb}", description=description, allow_abbrev=False)

    def nearest(self, option: str) -> str | None:
        """The option that is nearly spelled so; None where none is."""
        return next(iter(difflib.get_close_matches(option, self._option_string_actions, n=1, cutoff=_LIKENESS)), None)

    def error(self, message: str) -> NoReturn:
        """End with the message alone."""
        self.exit(2, f"{self.prog}: {hide_named(message)} (options: {self.prog} --help)\n")
