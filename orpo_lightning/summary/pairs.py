"""``val_pairs.csv``: what each validation pair measured at each validation of a run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from orpo_lightning.whole_file import whole_file


@dataclass(frozen=True)
class PairMeasures:
    """A validation pair at one validation.

    Args:
        step: optimizer steps done.
        set: name of the validation set; empty for the only one.
        row_id: the pair's row in the data.
        chosen_mean: mean log-probability of the chosen response, nats/token.
        rejected_mean: that of the rejected response.
        chosen: summed log-probability of the chosen response, nats.
        rejected: that of the rejected response.
        chosen_tokens: tokens of the chosen response.
        rejected_tokens: those of the rejected response.
        weight: the row's weight.
        content: a short hash of the tokens of prompt and responses, which tells the pair wherever its file is kept;
            empty in files of older versions.

    Example:
        >>> pair = PairMeasures(0, "", "a:1", -2.0, -2.5, -6.0, -5.0, 3, 2)
        >>> pair.margin, pair.accuracy
        (0.5, 1.0)
    """

    step: int
    set: str
    row_id: str
    chosen_mean: float
    rejected_mean: float
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int
    weight: float = 1.0
    content: str = ""

    @property
    def margin(self) -> float:
        """Its part of ``pref/margins``, nats/token."""
        return self.chosen_mean - self.rejected_mean

    @property
    def accuracy(self) -> float:
        """Its part of ``pref/accuracies``: 1 where the chosen response is the likelier one, 0.5 on a tie."""
        return 0.5 + 0.5 * ((self.margin > 0) - (self.margin < 0))

    @property
    def nll_response(self) -> float:
        """Its part of ``nll_response``, nats/token; it counts there as often as its chosen response has tokens."""
        return -self.chosen / self.chosen_tokens


_COLUMNS = [each.name for each in fields(PairMeasures)]
_LATER = frozenset({"content"})
"""What files of older versions do not have."""
_TYPES = {"int": int, "str": str, "float": float}
_PARSERS = {each.name: _TYPES[str(each.type)] for each in fields(PairMeasures)}


def read_pairs(path: Path) -> list[PairMeasures]:
    """The pairs of a file, in the order of steps, sets and data; none where there is no file.

    Raises:
        ValueError: the file is of another kind.
    """
    try:
        return [
            PairMeasures(**{name: _PARSERS[name](row[name]) for name in _COLUMNS if name in row or name not in _LATER})
            for row in _rows(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as the validation pairs of a run ({error!r}); accepted: a val_pairs.csv that a "
            "fit wrote"
        ) from error


def write_pairs(path: Path, step: int, pairs: Sequence[PairMeasures]) -> None:
    """Add the pairs of a validation, in the place of those of this step and of later ones; whole or not at all."""
    kept = [row for row in _rows(path) if int(row["step"]) < step]
    _write(path, [*kept, *(vars(pair) for pair in pairs)])


def cut_pairs(path: Path, step: int) -> None:
    """Forget the validations after a step, which a run that goes on from there does again."""
    rows = list(_rows(path))
    kept = [row for row in rows if int(row["step"]) <= step]
    if len(kept) < len(rows):
        _write(path, kept)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _write(path: Path, rows: Iterable[dict[str, object] | dict[str, str]]) -> None:
    with whole_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
