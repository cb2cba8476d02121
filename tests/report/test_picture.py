"""The picture of a run holds the curves that its metrics.csv holds, and no others."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from orpo_lightning.comparison.runs import Run
from orpo_lightning.report.picture import curves_figure, draw_curves
from orpo_lightning.summary.pairs import PairMeasures, write_pairs
from orpo_lightning.summary.record import RunRecord

TRAIN = ("train/logps_mean/chosen", "train/logps_mean/rejected", "train/pref/margins", "train/pref/accuracies")
ORPO = (*TRAIN, "train/log_odds_chosen", "train/rewards/margins", "train/loss", "train/grad_norm")


def write_run(folder, names, steps=24, every=8):
    """A value at each step for the measures of training, and at some for those of validation."""
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "epoch", *names])
        writer.writeheader()
        for step in range(steps + 1):
            row = {"step": step, "epoch": 0}
            row |= {name: step / 10 for name in names if name.startswith("train/") and step < steps}
            row |= {name: -step / 10 for name in names if name.startswith("val/") and step % every == 0}
            writer.writerow(row)
    return folder


def figure_of(folder):
    return curves_figure(Run(folder, "a", RunRecord("complete")))


def panels(figure):
    return {axes.get_title(loc="left").replace("\n", " "): axes for axes in figure.axes}


def lines_of(axes):
    """All but the lines of levels."""
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 2]


def test_every_measure_is_a_curve_with_its_values(tmp_path):
    names = [*ORPO, *(name.replace("train/", "val/") for name in ORPO[:-1])]
    figure = figure_of(write_run(tmp_path, names))
    assert list(panels(figure)) == [
        *("Log-probability of the answers", "Margin of the log-probabilities", "Accuracy"),
        *("Log odds ratio", "Loss", "Gradient norm"),
    ]
    training, validation, rejected, _ = lines_of(panels(figure)["Log-probability of the answers"])
    assert training.get_xdata().tolist() == list(range(24))
    assert training.get_ydata().tolist() == pytest.approx([step / 10 for step in range(24)])
    assert training.get_color() != rejected.get_color()
    assert validation.get_xdata().tolist() == [0, 8, 16, 24]
    assert validation.get_ydata().tolist() == pytest.approx([0, -0.8, -1.6, -2.4])
    assert validation.get_marker() == "o"


def test_every_panel_says_what_its_axes_are_and_the_legend_what_its_lines_are(tmp_path):
    figure = figure_of(write_run(tmp_path, [*ORPO, "val/loss"]))
    for axes in figure.axes:
        assert axes.get_xlabel() == "optimizer steps"
        assert axes.get_ylabel()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["chosen", "rejected", "training", "validation"]


def test_what_was_not_logged_has_no_panel_and_other_objectives_show_their_rewards(tmp_path):
    found = panels(figure_of(write_run(tmp_path, [*TRAIN, "train/rewards/margins", "train/loss"])))
    assert "Log odds ratio" not in found
    assert "Reward margin" in found
    assert len(found) == 5


def test_validation_sets_have_panels_of_their_own(tmp_path):
    names = ["train/pref/margins", "val/helpful/pref/margins", "val/harmless/pref/margins"]
    pairs = [PairMeasures(0, name, "a:1", -2.0, -2.5, -6.0, -5.0, 3, 2) for name in ("helpful", "harmless")]
    write_pairs(tmp_path / "val_pairs.csv", 0, pairs)
    found = panels(figure_of(write_run(tmp_path, names)))
    assert list(found) == ["helpful: Margin of the log-probabilities", "harmless: Margin of the log-probabilities"]
    assert [len(lines_of(axes)) for axes in found.values()] == [2, 2]


def test_of_a_long_training_the_running_mean_is_drawn_over_the_values(tmp_path):
    figure = figure_of(write_run(tmp_path, ["train/loss", "val/loss"], steps=200))
    (axes,) = figure.axes
    raw, smooth, _ = axes.get_lines()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training, running mean", "validation"]
    assert smooth.get_ydata()[50] == pytest.approx(np.mean(raw.get_ydata()[41:51]))


def test_the_picture_is_a_png_with_something_on_it(tmp_path):
    from matplotlib.image import imread

    assert draw_curves(write_run(tmp_path, ORPO), tmp_path / "curves.png")
    pixels = imread(tmp_path / "curves.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert pixels.std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


@pytest.mark.parametrize("names", [(), ("time/step_s",), ("train/accuracy",)])
def test_without_a_measure_to_draw_there_is_no_picture(tmp_path, names):
    assert not draw_curves(write_run(tmp_path, names), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_without_metrics_there_is_no_picture(tmp_path):
    assert not draw_curves(tmp_path, tmp_path / "curves.png")


def test_drawing_leaves_the_backend_of_others_alone(tmp_path):
    write_run(tmp_path, ORPO)
    code = (
        "import sys; from pathlib import Path; from orpo_lightning.report.picture import draw_curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"draw_curves(Path({str(tmp_path)!r}), Path({str(tmp_path / 'curves.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
