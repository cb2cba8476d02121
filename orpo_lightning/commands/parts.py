"""The command line of a verb that makes one part of what a configuration describes, and starts no run."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser

from orpo_lightning.cli import CLI


class PartCLI(CLI):
    """Reads the configuration of a fit, and makes a part of it alone."""

    part: ClassVar[str]
    """Its key."""
    made: Any
    """That part."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Those of a fit, as a run keeps them in its config.yaml."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="of a fit; not looked at here")
        parser.add_argument("--weights_only", type=bool | None, default=None, help="of a fit; not looked at here")

    def before_instantiate_classes(self) -> None:
        """Nothing to prepare: no run begins."""

    def instantiate_classes(self) -> None:
        """Make the part."""
        self.made = self.parser.instantiate_classes({self.part: self.config[self.part]})[self.part]
