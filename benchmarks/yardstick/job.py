"""What both sides are told to train. Written by the parent, read by the two processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-6
CLIP = 1.0
STRENGTH = 0.1
"""ORPO's lambda and DPO's beta, the default of both sides."""
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Setting:
    """How TRL splits the pairs of an optimizer step, and what both sides keep of it.

    Args:
        pairs: of an optimizer step.
        micro_batch: of them in a micro-batch; the others follow by accumulation.
        grouped: whether pairs of like length come together.
        checkpointed: whether both sides compute the activations of each layer again in the backward pass.
    """

    pairs: int
    micro_batch: int
    grouped: bool = False
    checkpointed: bool = False

    @property
    def name(self) -> str:
        """A short name, for keys and tables.

        >>> Setting(8, 8).name, Setting(8, 2).name, Setting(8, 8, grouped=True).name
        ('8', '2x4', '8-grouped')
        """
        split = f"{self.micro_batch}x{self.accumulate}" if self.accumulate > 1 else str(self.pairs)
        return split + "-grouped" * self.grouped + "-checkpointed" * self.checkpointed

    @property
    def in_words(self) -> str:
        """What the setting is."""
        split = f"{self.micro_batch} per micro-batch x {self.accumulate}"
        return split + ", grouped by length" * self.grouped + ", gradient checkpointing (both)" * self.checkpointed

    @property
    def accumulate(self) -> int:
        """Micro-batches of an optimizer step."""
        return self.pairs // self.micro_batch


@dataclass(frozen=True)
class Job:
    """A run of a few steps.

    Args:
        objective: ``orpo`` or ``dpo``.
        model: folder of the model.
        data: path of the data, as in ``data.train``.
        max_length: longest conversation, tokens.
        rows: indices of the rows to train on, in their order; whole optimizer steps.
        rows_file: the same rows as text and tokens, a line each.
        setting: how TRL splits a step.
        folder: for what a trainer writes.
    """

    objective: str
    model: str
    data: str
    max_length: int
    rows: tuple[int, ...]
    rows_file: str
    setting: Setting
    folder: str

    @property
    def nll_mean(self) -> str:
        """Over what ours takes the mean of ORPO's likelihood.

        TRL's is over the tokens of a micro-batch, and then over the micro-batches: with one pair in each, over pairs.
        """
        return "sequences" if self.setting.micro_batch == 1 and self.setting.pairs > 1 else "tokens"

    @property
    def is_same_loss(self) -> bool:
        """Whether both sides train by the same loss, and not only from the same weights.

        TRL's ORPO is a mean over the means of the micro-batches; ours has no such loss, but for one pair in each.
        """
        return self.objective != "orpo" or self.setting.micro_batch in (1, self.setting.pairs)

    def write(self, path: Path) -> None:
        """Leave it for a worker."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str) -> Job:
        """What the parent left."""
        fields: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**fields, "rows": tuple(fields["rows"]), "setting": Setting(**fields["setting"])})
