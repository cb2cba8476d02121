"""The curves of one run as one picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_lightning.comparison.runs import Run
from orpo_lightning.report.curves import objective_curves, shared_curves
from orpo_lightning.report.paper import LEGEND, STYLE, draw_plot, legend_of
from orpo_lightning.report.plots import Plot
from orpo_lightning.run_folder import RECORD_FILE
from orpo_lightning.summary.record import RunRecord, read_record
from orpo_lightning.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_WIDTH, _HEIGHT = 2.9, 2.1
"""Of a panel, inches."""
_LEGEND = 0.25
"""Above the panels, inches."""
_LETTERS = 44
"""Of its title, on a line."""
_DOTS_PER_INCH = 150


def draw_curves(folder: Path, picture: Path) -> bool:
    """Draw the measures of a run over the optimizer steps; whole or not at all.

    Args:
        folder: of the run.
        picture: the png file to write.

    Returns:
        Whether there was anything to draw.
    """
    # a trainer of somebody's own, without the callbacks of the command, leaves no record
    run = Run(folder, folder.name, read_record(folder / RECORD_FILE) or RunRecord("running"))
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = curves_figure(run)
        if figure is None:
            return False
        with whole_file(picture) as unfinished:
            figure.savefig(unfinished, format="png", dpi=_DOTS_PER_INCH)
    return True


def curves_figure(run: Run) -> Figure | None:
    """The picture of a run, its validation sets one after another; None where nothing was logged to draw."""
    of_sets = {each: [*shared_curves([run], each), *objective_curves([run], each)] for each in run.sets or ("",)}
    plots = [(plot, of_set) for of_set, found in of_sets.items() for plot in found]
    if not plots:
        return None
    # not pyplot: it keeps figures and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(len(plots), _COLUMNS)
    rows = -(-len(plots) // columns)
    # places by hand: a layout that is found takes as long as all else
    width, height = _WIDTH * columns, _HEIGHT * rows + _LEGEND
    figure = Figure(figsize=(width, height))
    top = 1 - (_LEGEND + 0.35) / height
    figure.subplots_adjust(0.65 / width, 0.4 / height, 1 - 0.1 / width, top, wspace=0.32, hspace=0.62)
    FigureCanvasAgg(figure)
    for place, (plot, of_set) in enumerate(plots, start=1):
        axes = figure.add_subplot(rows, columns, place)
        draw_plot(axes, plot, {run.name: run.name})
        axes.set_title(textwrap.fill(": ".join(filter(None, (of_set, plot.title))), _LETTERS), loc="left", fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    figure.legend(handles=_legend(run, [plot for plot, _ in plots]), loc="upper left", ncols=4, **LEGEND)
    return figure


def _legend(run: Run, plots: list[Plot]) -> list[object]:
    """What the lines of all plots are, each once."""
    handles = [handle for plot in plots for handle in legend_of(plot, {run.name: run.name})]
    return [*{handle.get_label(): handle for handle in handles}.values()]
