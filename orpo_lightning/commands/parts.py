"""The command line of a verb that makes parts of what a configuration describes, and starts no run."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser

from orpo_lightning.cli import CLI


class PartCLI(CLI):
    """Reads the configuration of a fit, and makes parts of it alone."""

    parts: ClassVar[tuple[str, ...]]
    """Their keys."""
    made: dict[str, Any]
    """The parts by their keys."""

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
