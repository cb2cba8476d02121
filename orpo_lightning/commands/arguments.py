"""The command line of a verb: whole names only, and mistakes answered in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class VerbParser(argparse.ArgumentParser):
    """A parser for the options of one verb.

    Args:
        verb: its name.
        description: what it does.
    """

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"orpo-lightning {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with the message alone."""
        self.exit(2, f"{self.prog}: {message} (options: {self.prog} --help)\n")
