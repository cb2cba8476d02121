"""orpo-lightning report, on runs that were really trained."""

import json
import re
from pathlib import Path

import pytest
from comparison_runs import make_run, pairs_of

SHORT = ["--trainer.max_steps=3", "--trainer.enable_progress_bar=false", "--summary.max_new_tokens=3"]


def test_two_objectives_two_strengths_and_two_seeds_are_one_page(orpo_lightning, capsys):
    for name, config, options in (
        ("orpo-0.1", "orpo", ["--model.objective.lambda_=0.1"]),
        ("orpo-0.1-again", "orpo", ["--model.objective.lambda_=0.1", "--seed_everything=1"]),
        ("orpo-1.0", "orpo", ["--model.objective.lambda_=1.0"]),
        ("dpo", "dpo", []),
    ):
        orpo_lightning("fit", "--config", config, f"--trainer.default_root_dir=runs/{name}", *SHORT, *options)
        own = Path("runs", name, "report.html")
        assert own.stat().st_size < 2.2e6
    capsys.readouterr()
    orpo_lightning("report", "runs", "--out", "all.html", "--title", "Four runs")
    assert re.fullmatch(r"\d+ plots of 4 runs written to all\.html\n", capsys.readouterr().out)
    text = Path("all.html").read_text()
    assert "<h1>Four runs</h1>" in text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.S)[1])
    by_key = {figure["key"]: figure for figure in figures}
    assert {"log_probabilities", "accuracy_by_length", "margin_histogram", "accuracy_by_tflop"} <= by_key.keys()
    (line,) = by_key["orpo_lambda_accuracy"]["data"]
    assert line["x"] == [0.1, 1.0]
    assert "mean of 2 seeds" in line["text"][0] or "2 seeds, all with this value" in line["text"][0]
    assert "one seed, bootstrap interval over 40 pairs" in line["text"][1]
    assert not any(figure["key"].startswith("dpo_beta") for figure in figures)  # one strength is no curve


@pytest.mark.slow
def test_figures_for_papers_are_written_where_they_are_asked_for(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", "orpo", "--trainer.default_root_dir=runs/orpo", *SHORT, "--summary.report=false")
    assert not Path("runs/orpo/report.html").exists()
    capsys.readouterr()
    orpo_lightning("report", "runs/orpo", "--figures", "paper/figures")
    assert "figures written to paper/figures" in capsys.readouterr().out
    assert Path("report.html").exists()
    assert Path("paper/figures/log_probabilities.one_column.pdf").read_bytes().startswith(b"%PDF")
    assert Path("paper/figures/log_probabilities.two_columns.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere: there is no such place"),
        (["nowhere", "--out", "no/report.html"], r"--out no/report\.html: there is no folder no"),
        (["nowhere", "--out", "."], r"--out \.: it is a folder"),
        (["nowhere", "--out", "/proc/report.html"], r"--out /proc/report\.html: nothing can be written there"),
        (["nowhere", "--figures", "file"], "--figures file: file is a file"),
        (["nowhere", "--figures", "file/figures"], "--figures file/figures: .*file is a file"),
        (["nowhere", "--figures", "/proc/figures"], "--figures /proc/figures: nothing can be written there"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(orpo_lightning, arguments, sentence):
    Path("file").touch()
    with pytest.raises(ValueError, match=sentence):
        orpo_lightning("report", *arguments)


def test_the_baseline_of_the_page_can_be_named(orpo_lightning):
    for name in ("a", "b"):
        make_run(Path("runs", name), pairs=pairs_of([1.0, -1.0] * 6))
    orpo_lightning("report", "runs", "--baseline", "runs/b/")
    assert ">Difference from b</h2>" in Path("report.html").read_text()
    with pytest.raises(ValueError, match="--baseline c: no run is named so; accepted: a, b"):
        orpo_lightning("report", "runs", "--baseline", "c")


def test_a_report_that_cannot_be_written_does_not_fail_a_run_that_is_done(orpo_lightning, monkeypatch, recwarn):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    from orpo_lightning.report.page import _library

    _library.cache_clear()
    orpo_lightning("fit", "--config", "orpo", "--trainer.default_root_dir=runs/orpo", *SHORT)
    assert any("report.html could not be written (ModuleNotFoundError: " in str(each.message) for each in recwarn)
    assert Path("runs/orpo/summary.md").exists()
    assert not Path("runs/orpo/report.html").exists()
