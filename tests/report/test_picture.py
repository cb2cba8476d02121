"""The picture of a run holds the curves that its metrics.csv holds, and no others."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from orpo_lightning.summary.curves import curves_figure, draw_curves, read_series

TRAIN = ("train/logps_mean/chosen", "train/logps_mean/rejected", "train/pref/margins", "train/pref/accuracies")
ORPO = (*TRAIN, "train/log_odds_chosen", "train/rewards/margins", "train/loss", "train/grad_norm")


def write_metrics(path, names, steps=24, every=8):
    """A value at each step for the measures of training, and at some for those of validation."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "epoch", *names])
        writer.writeheader()
        for step in range(steps + 1):
            row = {"step": step, "epoch": 0}
            row |= {name: step / 10 for name in names if name.startswith("train/") and step < steps}
            row |= {name: -step / 10 for name in names if name.startswith("val/") and step % every == 0}
            writer.writerow(row)
    return path


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def test_every_measure_is_a_curve_with_its_values(tmp_path):
    names = [*ORPO, *(name.replace("train/", "val/") for name in ORPO[:-1])]
    found = panels(curves_figure(read_series(write_metrics(tmp_path / "metrics.csv", names))))
    assert list(found) == [
        "log-probability of the answers",
        "margin: chosen less rejected",
        "accuracy: chosen is likelier",
        "log odds ratio of chosen and rejected",
        "loss",
        "gradient norm, before clipping",
    ]
    logps = {line.get_label(): line for line in found["log-probability of the answers"].get_lines()}
    assert set(logps) == {"chosen, training", "chosen, validation", "rejected, training", "rejected, validation"}
    training, validation = logps["chosen, training"], logps["chosen, validation"]
    assert training.get_xdata().tolist() == list(range(24))
    assert training.get_ydata().tolist() == pytest.approx([step / 10 for step in range(24)])
    assert validation.get_xdata().tolist() == [0, 8, 16, 24]
    assert validation.get_ydata().tolist() == pytest.approx([0, -0.8, -1.6, -2.4])
    assert validation.get_marker() == "o"


def test_every_panel_says_what_its_axes_are(tmp_path):
    figure = curves_figure(read_series(write_metrics(tmp_path / "metrics.csv", [*ORPO, "val/loss"])))
    for axes in figure.axes:
        assert axes.get_xlabel() == "optimizer steps"
        assert axes.get_ylabel()
        assert axes.get_legend().get_texts()


def test_what_was_not_logged_has_no_panel_and_other_objectives_show_their_rewards(tmp_path):
    names = [*TRAIN, "train/rewards/margins", "train/loss"]
    found = panels(curves_figure(read_series(write_metrics(tmp_path / "metrics.csv", names))))
    assert "log odds ratio of chosen and rejected" not in found
    assert "reward margin" in found
    assert len(found) == 5


def test_validation_sets_have_curves_of_their_own(tmp_path):
    names = ["train/pref/margins", "val/helpful/pref/margins", "val/harmless/pref/margins"]
    (axes,) = curves_figure(read_series(write_metrics(tmp_path / "metrics.csv", names))).axes
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == ["training", "val/harmless", "val/helpful"]
    assert len({line.get_marker() for line in lines}) == 3


def test_of_a_long_training_the_running_mean_is_drawn_over_the_values(tmp_path):
    path = write_metrics(tmp_path / "metrics.csv", ["train/loss"], steps=200)
    (axes,) = curves_figure(read_series(path)).axes
    raw, smooth = axes.get_lines()
    assert axes.get_xlabel() == "optimizer steps (training: mean of 10)"
    assert smooth.get_ydata()[50] == pytest.approx(np.mean(raw.get_ydata()[41:51]))


def test_the_picture_is_a_png_with_something_on_it(tmp_path):
    from matplotlib.image import imread

    assert draw_curves(write_metrics(tmp_path / "metrics.csv", ORPO), tmp_path / "curves.png")
    pixels = imread(tmp_path / "curves.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert pixels.std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


@pytest.mark.parametrize("names", [(), ("time/step_s",), ("train/accuracy",)])
def test_without_a_measure_to_draw_there_is_no_picture(tmp_path, names):
    assert not draw_curves(write_metrics(tmp_path / "metrics.csv", names), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_without_metrics_there_is_no_picture(tmp_path):
    assert not draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_drawing_leaves_the_backend_of_others_alone(tmp_path):
    path = write_metrics(tmp_path / "metrics.csv", ORPO)
    code = (
        "import sys; from pathlib import Path; from orpo_lightning.summary.curves import draw_curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"draw_curves(Path({str(path)!r}), Path({str(tmp_path / 'curves.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
