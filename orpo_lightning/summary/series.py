"""The curves of a run as one picture, from its ``metrics.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_STEPS = 60
"""Training steps from which a running mean is drawn over their values, which scatter from batch to batch."""
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#555555"
_SET_MARKERS = "osD^vP"


@dataclass(frozen=True)
class _Curve:
    measure: str
    label: str = ""
    color: str = _BLUE


@dataclass(frozen=True)
class _Panel:
    """One set of axes: what it shows, in which unit, and a level to compare with."""

    title: str
    unit: str
    curves: tuple[_Curve, ...]
    level: float | None = None


_ODDS = _Panel("log odds ratio of chosen and rejected", "nats", (_Curve("log_odds_chosen"),), 0.0)
_REWARDS = _Panel("reward margin", "reward", (_Curve("rewards/margins"),), 0.0)
_PANELS = (
    _Panel(
        "log-probability of the answers",
        "nats per token",
        (_Curve("logps_mean/chosen", "chosen"), _Curve("logps_mean/rejected", "rejected", _ORANGE)),
    ),
    _Panel("margin: chosen less rejected", "nats per token", (_Curve("pref/margins"),), 0.0),
    _Panel("accuracy: chosen is likelier", "share of pairs", (_Curve("pref/accuracies"),), 0.5),
    _ODDS,
    _REWARDS,
    _Panel("loss", "loss", (_Curve("loss", color=_GREY),)),
    _Panel("gradient norm, before clipping", "norm", (_Curve("grad_norm", color=_GREY),)),
)


@dataclass(frozen=True)
class Series:
    """A measure over the steps at which it was logged."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_series(metrics: Path) -> dict[str, Series]:
    """The measures of a ``metrics.csv`` by name; none where there is no file."""
    if not metrics.exists():
        return {}
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


def draw_curves(metrics: Path, picture: Path) -> bool:
    """Draw log-probabilities, margins, accuracy, odds and loss over the optimizer steps; whole or not at all.

    Args:
        metrics: a ``metrics.csv``.
        picture: the png file to write.

    Returns:
        Whether there was anything to draw.
    """
    figure = curves_figure(read_series(metrics))
    if figure is None:
        return False
    with whole_file(picture) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
    return True


def curves_figure(series: dict[str, Series]) -> Figure | None:
    """The picture of the measures of a run; None where none of those that are drawn was logged."""
    panels = [panel for panel in _PANELS if any(_sources(series, curve.measure) for curve in panel.curves)]
    if any(panel is _ODDS for panel in panels):  # the rewards of such an objective are its odds on another scale
        panels = [panel for panel in panels if panel is not _REWARDS]
    if not panels:
        return None
    # not pyplot: it keeps figures and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    last = max(int(each.steps.max()) for each in series.values())
    for place, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(rows, columns, place), panel, series, last)
    return figure


def _sources(series: dict[str, Series], measure: str) -> list[str]:
    """The logged names of a measure: that of training, then those of the validation sets."""
    validation = sorted(name for name in series if name.startswith("val/") and name.endswith(f"/{measure}"))
    # val/pref/margins is also the end of val/NAME/pref/margins, but rewards/margins is not that of pref/margins
    return [name for name in (f"train/{measure}", *validation) if name in series]


def _draw(axes: Axes, panel: _Panel, series: dict[str, Series], last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.level is not None:
        axes.axhline(panel.level, color="#bbbbbb", linewidth=0.8, zorder=0)
    for curve in panel.curves:
        validation = [name for name in _sources(series, curve.measure) if name.startswith("val/")]
        if f"train/{curve.measure}" in series:
            _draw_training(axes, series[f"train/{curve.measure}"], curve)
        for number, name in enumerate(validation):
            each = series[name]
            set_name = name.removeprefix("val/").removesuffix(curve.measure).rstrip("/")
            axes.plot(
                each.steps,
                each.values,
                color=curve.color,
                marker=_SET_MARKERS[number % len(_SET_MARKERS)],
                markersize=5,
                markeredgecolor="white",
                linewidth=1.4,
                linestyle="--",
                label=_joined([curve.label, f"val/{set_name}" if set_name else "validation"]),
            )
    axes.set_title(panel.title, fontsize=10)
    longest = max((len(series[name].steps) for name in series if name.startswith("train/")), default=0)
    mean = f" (training: mean of {window_of(longest)})" if longest >= MANY_STEPS else ""
    axes.set_xlabel(f"optimizer steps{mean}", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.set_xlim(-0.03 * max(last, 1), 1.03 * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
    # below the axes, where it hides no curve
    axes.legend(fontsize=7.5, frameon=False, handlelength=2.6, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.19))


def _draw_training(axes: Axes, each: Series, curve: _Curve) -> None:
    label = _joined([curve.label, "training"])
    if len(each.steps) < MANY_STEPS:
        axes.plot(each.steps, each.values, color=curve.color, linewidth=1.1, alpha=0.55, label=label)
        return
    axes.plot(each.steps, each.values, color=curve.color, linewidth=0.6, alpha=0.25)
    smooth = running_mean(each.values, window_of(len(each.steps)))
    axes.plot(each.steps, smooth, color=curve.color, linewidth=1.3, label=label)


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


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)
