"""The measures of a run over its steps, from its ``metrics.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MANY_STEPS = 60
"""Training steps from which a running mean is drawn over their values, which scatter from batch to batch."""


@dataclass(frozen=True)
class Series:
    """A measure over the steps at which it was logged."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_series(metrics: Path) -> dict[str, Series]:
    """The measures of a ``metrics.csv`` by name; none where there is no file.

    Raises:
        ValueError: the file is of another kind.
    """
    if not metrics.exists():
        return {}
    try:
        return _series(metrics)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{metrics} cannot be read as the measures of a run ({error!r}); accepted: a metrics.csv that a fit wrote, "
            "with a column step and numbers"
        ) from error


def _series(metrics: Path) -> dict[str, Series]:
    found: dict[str, tuple[list[int], list[float]]] = {}
    with metrics.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value and "/" in name:
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(float(value))
    return {name: Series(np.array(steps), np.array(values)) for name, (steps, values) in found.items()}


def window_of(steps: int) -> int:
    """How many values the running mean of so many steps holds."""
    return max(2, steps // 20)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of each value and those before it, as many as the window holds.

    Example:
        >>> running_mean(np.array([0.0, 2.0, 4.0, 6.0]), 2).tolist()
        [0.0, 1.0, 3.0, 5.0]
    """
    counts = np.minimum(np.arange(1, len(values) + 1), window)
    means: NDArray[np.float64] = np.convolve(values, np.ones(window))[: len(values)] / counts
    return means
