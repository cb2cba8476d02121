"""``run.json``: what a run trains, how far it came and how it ended, for programs that look at many runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from orpo_lightning.secrets import hide_values
from orpo_lightning.whole_file import whole_file

Status = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True)
class Finding:
    """What a run has found to be wrong with itself.

    Args:
        step: optimizer steps done when it was said.
        sentence: what it is, and what to do.
    """

    step: int
    sentence: str


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Args:
        status: ``running``, also of a run that was killed; ``complete``; ``stopped`` before its last step; ``failed``.
        reason: why it failed; None where it has not.
        objective: class name of its objective; of another module, the name of that.
        arguments: of the objective.
        strength_name: which of them weighs the preference; None where none does.
        model: the model that it started from; None where that is not known.
        parameters: of the policy; None where that is not known.
        trained_parameters: those of them that are trained.
        steps: optimizer steps done when this was written.
        total_steps: those that were planned; None where that is not known.
        wall_seconds: time that it took until then, from before the data and the model are loaded; of a run that went
            on, with the time up to the checkpoint that it went on from. None where that is not known.
        device: what it ran on.
        versions: of the packages that it ran with.
        health: what it has found to be wrong with itself, in order.

    Example:
        >>> record = RunRecord("complete", objective="ORPO", arguments={"lambda_": 0.2}, strength_name="lambda_")
        >>> record.strength
        0.2
    """

    status: Status
    reason: str | None = None
    objective: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    strength_name: str | None = None
    model: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    steps: int = 0
    total_steps: int | None = None
    wall_seconds: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    health: Sequence[Finding] = ()

    @property
    def strength(self) -> float | None:
        """How much the preference weighs; None where no number says."""
        value = self.arguments.get(self.strength_name) if self.strength_name else None
        return value if isinstance(value, int | float) else None


def read_record(path: Path) -> RunRecord | None:
    """The record of a file; None where there is no file.

    Raises:
        ValueError: the file is of another kind.
    """
    if not path.exists():
        return None
    try:
        record = RunRecord(**json.loads(path.read_text(encoding="utf-8")))
        record = replace(record, health=tuple(Finding(**each) for each in record.health))  # type: ignore[arg-type]  # JSON
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the record of a run; accepted: one that a fit wrote") from error
    for name, kind in (("steps", int), ("arguments", dict), ("versions", dict)):
        if not isinstance(getattr(record, name), kind):
            raise ValueError(f"{path}: {name} = {getattr(record, name)!r}; accepted: what a fit wrote there")
    if record.status not in get_args(Status):
        raise ValueError(f"{path}: status = {record.status!r}; accepted: {', '.join(get_args(Status))}")
    return record


def write_record(path: Path, record: RunRecord) -> None:
    """Write a record, whole or not at all, without secrets."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(hide_values(asdict(record)), indent=2, default=str) + "\n", encoding="utf-8")
