"""The splits of a run: validation sets by name, and a training mixture of weighted sources."""

from __future__ import annotations

import bisect
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.report import SplitReport
from orpo_lightning.data.segments import LazyRows, Segments
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.data.token_table import TokenTable
from orpo_lightning.records import TokenizedRow


@dataclass(frozen=True)
class Split:
    """The rows of a split, and the account of each source that they are from.

    Args:
        rows: the tokenized rows.
        reports: by the name of the source's part of the split.
        prompt_keys: a hash of the text of each of their prompts.
    """

    rows: Sequence[TokenizedRow]
    reports: Mapping[str, SplitReport]
    prompt_keys: tuple[str, ...]

    def note_shared(self, trained_on: Collection[str]) -> None:
        """Count in the account of a validation set the rows whose prompt is trained on.

        Args:
            trained_on: keys of the prompts of the training data.
        """
        (report,) = self.reports.values()
        shared = [place for place, key in enumerate(self.prompt_keys) if key in trained_on]
        report.shared_prompts = len(shared)
        report.first_shared = self.rows[shared[0]].row_id if shared else None


def load_validation(how: Preparation, sources: Mapping[str, SourceConfig]) -> dict[str, Split]:
    """The validation sets: ``validation``, or ``validation/NAME`` where they have names."""
    splits = {}
    for name, source in sources.items():
        split = f"validation/{name}" if name else "validation"
        table, report = how.prepare(source, "validation", split)
        splits[split] = Split(table, {split: report}, table.prompt_keys)
    return splits


def load_training(
    how: Preparation, sources: Sequence[SourceConfig], validation_prompts: Collection[str], seed: int
) -> Split:
    """The training rows: those of one source, or a mixture of several.

    Args:
        how: how rows are read, filtered and tokenized.
        sources: where they are from, each with its weight in the mixture.
        validation_prompts: keys of the prompts of the validation data.
        seed: of the drawing of rows from sources whose weight is not a whole number.
    """
    parts: list[tuple[TokenTable, list[int]]] = []
    reports: dict[str, SplitReport] = {}
    for number, source in enumerate(sources, start=1):
        name = "train" if len(sources) == 1 else f"train/{number}"
        table, report = how.prepare(source, "train", name, validation_prompts)
        report.shared_prompts = sum(key in validation_prompts for key in table.prompt_keys)
        drawn = draw(len(table), source.weight, f"{seed} {number}")
        if not drawn:
            raise ValueError(
                f"data.train: the weight {source.weight} takes none of the {len(table):,} rows of {report.source}; "
                f"accepted: {1 / len(table):.2g} or more"
            )
        if len(sources) > 1 or source.weight != 1:
            report.used = len(drawn)
        parts.append((table, drawn))
        reports[name] = report
    keys = tuple(table.prompt_keys[i] for table, drawn in parts for i in drawn)
    rows = parts[0][0] if len(parts) == 1 and sources[0].weight == 1 else Mixture(parts)
    return Split(rows, reports, keys)


def draw(rows: int, weight: float, seed: str) -> list[int]:
    """Indices of the rows of an epoch: each as often as the whole part of the weight says, and a share once more.

    Example:
        >>> draw(4, 2.0, "0"), len(draw(4, 0.5, "0"))
        ([0, 1, 2, 3, 0, 1, 2, 3], 2)
    """
    whole, share = divmod(weight, 1)
    return [*range(rows)] * int(whole) + sorted(random.Random(seed).sample(range(rows), round(share * rows)))


class Mixture(LazyRows):
    """The drawn rows of several sources, one source after the other."""

    def __init__(self, parts: Sequence[tuple[Sequence[TokenizedRow], Sequence[int]]]) -> None:
        self.parts = parts
        self._ends = list(accumulate(len(drawn) for _, drawn in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def segments(self) -> Segments:
        """The sizes of all rows."""
        return Segments.joined([Segments.of(rows).take(drawn) for rows, drawn in self.parts])

    def row(self, index: int) -> TokenizedRow:
        """The row at a place from 0 on."""
        part = bisect.bisect_right(self._ends, index)
        rows, drawn = self.parts[part]
        return rows[drawn[index - (self._ends[part - 1] if part else 0)]]
