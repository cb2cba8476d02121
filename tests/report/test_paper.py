"""Figures for papers: of the right width, with their fonts, legible and without a title."""

import io
import re
import subprocess
import sys
import zlib

import matplotlib
import pytest
from matplotlib.image import imread
from report_runs import HOSTILE, make_report_runs

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.contents import build_report
from orpo_lightning.report.paper import STYLE, WIDTHS, paper_figure, write_figures


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(read_runs([str(make_report_runs(tmp_path_factory.mktemp("runs")))]))


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    """Figures of a few plots, of all kinds of traces."""
    folder = tmp_path_factory.mktemp("figures")
    keys = ("log_probabilities", "margin_histogram", "orpo_lambda_accuracy")
    sections = [
        type(each)(each.key, each.title, each.text, tuple(plot for plot in each.plots if plot.key in keys))
        for each in report.sections
    ]
    write_figures(type(report)(report.title, report.runs, report.comparison, tuple(sections)), folder)
    return folder


def test_the_names_tell_plot_and_width(folder):
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".md") == sorted(
        f"{key}.{width}.{kind}"
        for key in ("log_probabilities", "margin_histogram", "orpo_lambda_accuracy")
        for width in ("one_column", "two_columns")
        for kind in ("pdf", "png")
    )


def test_the_captions_say_what_each_figure_shows_and_what_its_bars_are_over(folder):
    captions = (folder / "captions.md").read_text().split("## ")[1:]
    assert [each.split()[0] for each in captions] == ["log_probabilities", "margin_histogram", "orpo_lambda_accuracy"]
    assert "Solid: chosen answers, dashed: rejected ones." in captions[0]
    assert "bars, where there are some, are 95% intervals over the validation pairs" in captions[2]


@pytest.mark.parametrize(("width", "inches"), [("one_column", 3.25), ("two_columns", 6.75)])
def test_the_widths_are_those_of_one_and_two_columns(folder, width, inches):
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", (folder / f"margin_histogram.{width}.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(72 * inches, abs=0.5)
    assert imread(folder / f"margin_histogram.{width}.png").shape[1] == pytest.approx(300 * inches, abs=1)


def test_fonts_are_embedded_as_outlines_that_stay_text(folder):
    for path in folder.glob("*.pdf"):
        content = path.read_bytes()
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.S):
            try:
                content += zlib.decompress(stream)
            except zlib.error:
                continue
        assert b"/FontFile2" in content, path
        assert b"/Type3" not in content, path


@pytest.mark.slow
def test_equal_runs_give_equal_files(report, folder, tmp_path):
    again = tmp_path / "again"
    sections = tuple(each for each in report.sections if each.key == "strength")
    write_figures(type(report)(report.title, report.runs, report.comparison, sections), again)
    name = "orpo_lambda_accuracy.one_column.pdf"
    assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_no_figure_has_a_title_and_all_axes_say_what_they_are(report):
    for plot in report.plots:
        (axes,) = paper_figure(plot, {run.name: run.label for run in report.runs}, "one_column").axes
        assert axes.get_title() == ""
        assert axes.get_xlabel() == plot.x[0].label
        assert axes.get_ylabel() == plot.y.label


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_legend_of_many_runs_stays_within_the_figure(tmp_path, width):
    runs = read_runs([str(make_report_runs(tmp_path, [i / 10 for i in range(1, 31)]))])
    plot = next(plot for plot in build_report(runs).plots if plot.key == "log_probabilities")
    figure = paper_figure(plot, {run.name: run.label for run in runs}, width)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
    # the plot itself keeps most of the height that it has without a legend
    assert figure.axes[0].get_window_extent().height > 1.2 * figure.dpi


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_no_label_runs_over_an_edge(report, width):
    for plot in report.plots:
        figure = paper_figure(plot, {run.name: run.label for run in report.runs}, width)
        figure.canvas.draw()
        (axes,) = figure.axes
        for axis in (axes.xaxis, axes.yaxis):
            box, edges = axis.get_tightbbox(), figure.bbox
            assert edges.x0 <= box.x0 <= box.x1 <= edges.x1, (plot.key, axis.get_label_text())
            assert edges.y0 <= box.y0 <= box.y1 <= edges.y1, (plot.key, axis.get_label_text())
        # wider numbers beside the y axis push the label to the right, so it has to leave room
        label = axes.xaxis.label.get_window_extent()
        assert label.width <= 0.85 * axes.get_window_extent().width, (plot.key, axes.get_xlabel())


@pytest.mark.parametrize("name", ["lr_$1e-4$", "$\\frac{", "a$b", HOSTILE, "100%_\\x"])
def test_a_name_is_text_whatever_it_holds(report, name):
    plot = next(plot for plot in report.plots if plot.key == "accuracy_by_nll_response")
    figure = paper_figure(plot, {run.name: f"{name} {run.name}" for run in report.runs}, "two_columns")
    with matplotlib.rc_context(STYLE):
        figure.savefig(io.BytesIO(), format="pdf")
    (legend,) = figure.legends
    assert f"{name} a" in [text.get_text() for text in legend.get_texts()]


def test_matplotlib_is_loaded_where_it_is_used_alone():
    code = "import orpo_lightning.report.paper, sys; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
