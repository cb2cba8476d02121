"""What the tables of a comparison show of each run, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.differences import NOT_A_SETTING
from orpo_lightning.comparison.measures import MEASURES, Measure
from orpo_lightning.comparison.runs import strength_in_words
from orpo_lightning.comparison.table import Row, value_of
from orpo_lightning.summary.intervals import Interval
from orpo_lightning.summary.words import duration

_LONGEST_SETTING = 60


@dataclass(frozen=True)
class Cell:
    """A cell; empty where nothing was measured.

    Args:
        text: what is shown.
        aside: what is shown after it, smaller or in brackets.
        value: what a column of numbers is sorted by.
    """

    text: str = ""
    aside: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Field:
    """A column of the rows of runs.

    Args:
        title: its heading.
        show: the cell of a row.
        unit: of the numbers.
        is_number: whether it is sorted as numbers.
    """

    title: str
    show: Callable[[Row], Cell]
    unit: str = ""
    is_number: bool = True


def filled(fields: Sequence[Field], rows: Sequence[Row]) -> list[Field]:
    """The columns in which any row has something to show, the first one always.

    Args:
        fields: the columns.
        rows: of a table.
    """
    return [each for i, each in enumerate(fields) if i == 0 or any(each.show(row).text for row in rows)]


def trained(comparison: Comparison, names: Sequence[str]) -> list[Field]:
    """Of the columns that say what a run trained, those in which some runs differ.

    Args:
        comparison: that the runs are of.
        names: of the runs.
    """
    rows = [comparison.by_name[name] for name in names]
    return [each for each in TRAINED if len({each.show(row).text for row in rows}) > 1]


def name_with(fields: Sequence[Field], row: Row) -> str:
    """The name of a run, and in brackets what some columns show of it."""
    what = " ".join(text for field in fields if (text := field.show(row).text))
    return f"{row.run} ({what})" if what else row.run


def measured(value: Interval | float | None, measure: Measure, sign: str = "") -> Cell:
    """The cell of a measure, with its interval where it has one.

    Example:
        >>> measured(Interval(0.5, 0.25, 0.75), MEASURES["accuracy"])
        Cell(text='50.0', aside='25.0 to 75.0', value=0.5)
    """
    number = value_of(value)
    return Cell() if number is None else Cell(measure.text(number, sign), measure.ends(value, sign), number)


def number(value: float | None, form: str) -> Cell:
    """The cell of a number; empty for None.

    Example:
        >>> number(1234.0, ",.0f")
        Cell(text='1,234', aside='', value=1234.0)
    """
    return Cell() if value is None else Cell(f"{value:{form}}", value=value)


def setting_text(value: Any) -> str:
    """The value of a setting, cut where it is long; a dash where it is none of the run.

    Example:
        >>> setting_text("orpo_lightning.ORPO"), setting_text(NOT_A_SETTING)
        ('ORPO', '-')
    """
    text = "-" if value == NOT_A_SETTING else str(value).removeprefix("orpo_lightning.")
    return text if len(text) <= _LONGEST_SETTING else f"{text[: _LONGEST_SETTING - 1]}…"


def _time(seconds: float | None) -> Cell:
    return Cell() if seconds is None else Cell(duration(seconds), "", seconds)


def _strength(row: Row) -> Cell:
    return Cell(strength_in_words(row.strength_name, row.strength), value=row.strength)


def _model(row: Row) -> Cell:
    size = "" if row.parameters is None else f"{row.parameters / 1e6:,.3g}\N{NO-BREAK SPACE}M"
    return Cell(row.model or "", size)


def _validated_at(row: Row) -> Cell:
    return Cell() if row.validated_at == row.steps else number(row.validated_at, ",")


def _answers(row: Row) -> Cell:
    if row.answer_tokens is None:
        return Cell()
    at_least, many = (
        ("at least ", f"{row.answers_cut} of {row.answers} cut off") if row.answers_cut else ("", f"of {row.answers}")
    )
    return Cell(f"{at_least}{row.answer_tokens:.0f}", many, row.answer_tokens)


TRAINED = (
    Field("objective", lambda row: Cell(row.objective), is_number=False),
    Field("strength", _strength),
    Field("model", _model, is_number=False),
)
"""What was trained."""
QUALITY = (
    Field("run", lambda row: Cell(row.run), is_number=False),
    *TRAINED,
    Field("validated at", _validated_at, unit="step"),
    Field("accuracy", lambda row: measured(row.accuracy, MEASURES["accuracy"]), unit="%"),
    Field("margin", lambda row: measured(row.margin, MEASURES["margin"]), unit="nats/token"),
    Field("nll", lambda row: measured(row.nll_response, MEASURES["nll_response"]), unit="nats/token"),
    Field("answers", _answers, unit="tokens"),
)
"""What came out."""
WORK = (
    Field("run", lambda row: Cell(row.run), is_number=False),
    Field("status", lambda row: Cell(row.status), is_number=False),
    Field("steps", lambda row: number(row.steps, ",")),
    Field("pairs", lambda row: number(row.pairs_seen, ",.0f")),
    Field("tokens", lambda row: number(row.tokens_seen, ",.0f")),
    Field("operations", lambda row: number(row.tflop, ",.4g"), unit="10^12"),
    Field("wall time", lambda row: _time(row.wall_seconds)),
    Field("time of the steps", lambda row: _time(row.seconds)),
    Field("peak memory", lambda row: number(row.peak_gb, ".2f"), unit="GB"),
)
"""What the training took."""
