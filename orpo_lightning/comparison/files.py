"""A comparison as files for programs."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.table import Row
from orpo_lightning.summary.intervals import Interval
from orpo_lightning.whole_file import whole_file

_WITH_INTERVAL = ("accuracy", "margin")


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write the rows of a comparison, whole or not at all; the ends of an interval have columns of their own."""
    names = [each.name for each in fields(Row)]
    columns = [*names, *(f"{name}_{end}" for name in _WITH_INTERVAL for end in ("low", "high"))]
    with whole_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(_flat(row) for row in comparison.rows)


def write_json(comparison: Comparison, path: Path) -> None:
    """Write all of a comparison, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(asdict(comparison), indent=2, default=str) + "\n", encoding="utf-8")


def _flat(row: Row) -> dict[str, object]:
    values = dict(vars(row))
    for name in _WITH_INTERVAL:
        if isinstance(values[name], Interval):
            values |= {name: values[name].value, f"{name}_low": values[name].low, f"{name}_high": values[name].high}
    return values
