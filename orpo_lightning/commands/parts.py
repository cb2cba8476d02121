"""The command line of a verb that makes parts of what a configuration describes, and starts no run."""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Self

from lightning.pytorch.cli import LightningArgumentParser

from orpo_lightning.cli import CLI, make_cli
from orpo_lightning.command_line.help import help_for


class PartCLI(CLI):
    """Reads the configuration of a fit, and makes parts of it alone."""

    parts: ClassVar[tuple[str, ...]]
    """Their keys."""
    made: dict[str, Any]
    """The parts by their keys."""

    @classmethod
    def of_verb(cls, verb: str) -> Self | None:
        """The parts that the words after a verb describe; None where these ask for its help, which is then printed."""
        text = help_for(verb, sys.argv[2:])
        if text is not None:
            print(text)
            return None
        sys.argv = [f"{sys.argv[0]} {verb}", *sys.argv[2:]]
        cli = make_cli(cls, run=False, save_config_callback=None)
        assert isinstance(cli, cls)
        return cli

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Those of a fit, as a run keeps them in its config.yaml."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="of a fit; not looked at here")
        parser.add_argument("--weights_only", type=bool | None, default=None, help="of a fit; not looked at here")

    def before_instantiate_classes(self) -> None:
        """Nothing to prepare: no run begins."""

    def instantiate_classes(self) -> None:
        """Make the parts."""
        made = self.parser.instantiate_classes({part: self.config[part] for part in self.parts})
        self.made = {part: made[part] for part in self.parts}
