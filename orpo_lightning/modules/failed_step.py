"""A step whose loss or gradient was not finite, as it is kept in a file: all that is needed to take it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, ClassVar

from orpo_lightning.modules.finite import NonFiniteError
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.packing import PackedBatch, pack, unpack
from orpo_lightning.ranks import from_all_ranks
from orpo_lightning.records import Role, StepInfo, TokenizedResponse, TokenizedRow


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch as plain data.

    Args:
        rows: those of its responses that the model ran on, and the weights that its rows had.
        step: the global batch that it is a part of.
    """

    rows: tuple[TokenizedRow, ...]
    step: StepInfo


@dataclass(frozen=True)
class FailedStep:
    """A step that was not taken.

    Args:
        what: ``the loss`` or ``the gradient norm``, which was not finite.
        value: what it was.
        step: the optimizer step.
        rows: the rows to blame.
        precision: the name of the precision that the run computed in.
        device: the kind of its devices.
        config: the configuration of the run, YAML.
        micro_batches: those of all ranks, in the order of the plan.
    """

    what: str
    value: float
    step: int
    rows: tuple[str, ...]
    precision: str
    device: str
    config: str
    micro_batches: tuple[MicroBatch, ...]

    KEY: ClassVar[str] = "failed_step"
    """Of what :meth:`to_plain` returns, in a checkpoint with the weights from before the step."""

    @classmethod
    def of(cls, module: PreferenceModule, error: NonFiniteError, config: str) -> FailedStep:
        """The step at which a module has stopped. All ranks have to call this.

        Args:
            module: the module, with its trainer.
            error: what it has raised.
            config: the configuration of the run, YAML.
        """
        own = [MicroBatch(tuple(unpack(each.batch)), each.batch.step) for each in module.scored]
        trainer = module.trainer
        return cls(
            what=error.what,
            value=error.value,
            step=error.step,
            rows=tuple(error.rows),
            precision=str(trainer.precision),
            device=trainer.strategy.root_device.type,
            config=config,
            # number i of the plan is the i // ranks-th of rank i % ranks
            micro_batches=tuple(chain.from_iterable(zip(*from_all_ranks(own), strict=True))),
        )

    def packed(self) -> list[PackedBatch]:
        """The batches that the module is called with, in one process; the optimizer steps after the last."""
        last = len(self.micro_batches) - 1
        return [
            pack(each.rows, replace(each.step, is_last=i == last, micro_batches=last + 1))
            for i, each in enumerate(self.micro_batches)
        ]

    def row_by_row(self) -> FailedStep:
        """The same step with a micro-batch for each row; those of weight 0 are left out."""
        rows = ((row, each.step) for each in self.micro_batches for row in each.rows if row.weight)
        return replace(self, micro_batches=tuple(MicroBatch((row,), step) for row, step in rows))

    def to_plain(self) -> dict[str, Any]:
        """This step as plain data, which is read from a file without running any code."""
        plain = asdict(self)
        for micro_batch in plain["micro_batches"]:
            for row in micro_batch["rows"]:
                row["responses"] = tuple({**each, "role": int(each["role"])} for each in row["responses"])
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> FailedStep:
        """The step that :meth:`to_plain` was called on.

        Raises:
            Exception: of many kinds, if it is of another shape.
        """
        micro_batches = (
            MicroBatch(tuple(_row(**row) for row in each["rows"]), StepInfo(**each["step"]))
            for each in plain["micro_batches"]
        )
        return cls(**{**plain, "micro_batches": tuple(micro_batches)})


def _row(responses: tuple[Mapping[str, Any], ...], **others: Any) -> TokenizedRow:
    return TokenizedRow(
        responses=tuple(TokenizedResponse(**{**each, "role": Role(each["role"])}) for each in responses), **others
    )
