"""A comparison as files for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.table import Row
from orpo_lightning.summary.intervals import Interval
from orpo_lightning.whole_file import whole_file


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write the rows of a comparison, whole or not at all; the ends of an interval have columns of their own."""
    names = [each.name for each in fields(Row)]
    columns = [*names, *(f"{name}_{end}" for name in MEASURES for end in ("low", "high"))]
    with whole_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(_flat(row) for row in comparison.rows)


def write_json(comparison: Comparison, path: Path) -> None:
    """Write all of a comparison, whole or not at all; what is no number, or none that is finite, is null."""
    text = json.dumps(_finite(asdict(comparison)), indent=2, default=str, allow_nan=False)
    with whole_file(path) as unfinished:
        unfinished.write_text(f"{text}\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Row) -> dict[str, Any]:
    values = dict(vars(row))
    for name in MEASURES:
        if isinstance(values[name], Interval):
            values |= {name: values[name].value, f"{name}_low": values[name].low, f"{name}_high": values[name].high}
    return {name: _finite(value) for name, value in values.items()}
