"""All plots of a report, in their sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.table import Row
from orpo_lightning.report.cost import cost_plots
from orpo_lightning.report.curves import objective_curves, shared_curves
from orpo_lightning.report.pairs import pair_plots
from orpo_lightning.report.plots import Plot
from orpo_lightning.report.strength import strength_plots


@dataclass(frozen=True)
class Section:
    """Plots that belong together.

    Args:
        key: its name for programs.
        title: its heading.
        text: what holds for all of them.
        plots: the plots; never empty.
    """

    key: str
    title: str
    text: str
    plots: tuple[Plot, ...]


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Args:
        title: its heading.
        runs: in the order given.
        comparison: the runs side by side.
        sections: the plots.
    """

    title: str
    runs: tuple[Run, ...]
    comparison: Comparison
    sections: tuple[Section, ...]

    @property
    def plots(self) -> list[Plot]:
        """The plots of all sections."""
        return [plot for section in self.sections for plot in section.plots]


def build_report(
    runs: Sequence[Run],
    of_set: str | None = None,
    title: str | None = None,
    baseline: str | None = None,
    left_out: Sequence[str] = (),
) -> Report:
    """Gather what there is to show of runs; a plot without data is left out.

    Args:
        runs: to show.
        of_set: the validation set; None takes the first one.
        title: heading; None takes what was trained.
        baseline: name or folder of the run that the others are tested against; None takes the first one with pairs.
        left_out: what could not be read, a sentence each.

    Raises:
        ValueError: no run has validation pairs of this set, or is the baseline.
    """
    comparison = Comparison.of_runs(runs, of_set, baseline, left_out)
    shown_set = comparison.of_set
    by_name = comparison.by_name
    found = [
        Section(
            "curves",
            "Over the training",
            "These mean the same for every objective. Plain lines: training batches, as a running mean where there are "
            "many. Lines with marks: validation.",
            tuple(shared_curves(runs, shown_set)),
        ),
        Section(
            "objective",
            "Of the objective itself",
            "These contain the objective's strength or its reference, and compare runs of one objective only.",
            tuple(objective_curves(runs, shown_set)),
        ),
        Section(
            "pairs",
            "Of the validation pairs",
            "After the last validation of each run; without those that were not validated after their first step.",
            tuple(pair_plots([run for run in runs if not _is_untrained(by_name[run.name])], shown_set)),
        ),
        Section(
            "strength",
            "What the strength does",
            "One line a model; marks alone where most runs differ in other settings too. Runs that differ by their "
            "seed alone are one point, their mean. Runs that failed, have not ended or were not validated after their "
            "first step are left out.",
            tuple(strength_plots(runs, by_name)),
        ),
        Section(
            "cost",
            "At which cost",
            "Each run by its last validation and what it had taken until then, whatever its objective. Runs that "
            "failed, have not ended or were not validated after their first step are left out.",
            tuple(cost_plots(runs, by_name)),
        ),
    ]
    heading = title or (runs[0].label if len(runs) == 1 else f"{len(runs)} runs")
    return Report(heading, tuple(runs), comparison, tuple(each for each in found if each.plots))


def _is_untrained(row: Row) -> bool:
    return row.validated_at == 0 and row.steps > 0
