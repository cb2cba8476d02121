"""orpo-lightning compare, on runs that were really trained."""

import csv
import json
from pathlib import Path

import pytest
from comparison_runs import make_run, pairs_of

QUIET = ["--trainer.enable_progress_bar=false", "--summary.max_new_tokens=5"]


def fit(orpo_lightning, config, name, *options):
    orpo_lightning("fit", "--config", config, f"--trainer.default_root_dir=runs/{name}", *QUIET, *options)


def test_two_objectives_and_a_run_of_another_length_are_compared(orpo_lightning, capsys):
    fit(orpo_lightning, "orpo", "orpo", "--model.objective.lambda_=1.0")
    fit(orpo_lightning, "sft", "sft")
    fit(orpo_lightning, "orpo", "short", "--model.objective.lambda_=1.0", "--trainer.max_steps=4")
    capsys.readouterr()
    orpo_lightning("compare", "runs", "--baseline", "sft", "--csv", "rows.csv", "--json", "all.json")
    printed = capsys.readouterr().out
    for part in ("Difference from sft", "lambda 1", "SFT", "not done equally much", "trainer.max_steps"):
        assert part in printed, part
    with Path("rows.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"orpo", "sft", "short"}
    # what the data module, the trainer and the objectives make certain
    assert [float(rows[name]["pairs_seen"]) for name in rows] == [250, 250, 32]
    assert [int(rows[name]["steps"]) for name in rows] == [32, 32, 4]
    assert float(rows["sft"]["tokens_seen"]) < float(rows["orpo"]["tokens_seen"])  # it leaves out the rejected ones
    assert float(rows["sft"]["tflop"]) < float(rows["orpo"]["tflop"])
    assert {row["validation_pairs"] for row in rows.values()} == {"40"}
    assert {row["answers"] for row in rows.values()} == {"2"}
    assert 1 <= float(rows["orpo"]["answer_tokens"]) <= 5
    with Path("runs/orpo/metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(rows["orpo"]["accuracy"]) == pytest.approx(float(last["val/pref/accuracies"]))
    assert float(rows["orpo"]["nll_response"]) == pytest.approx(float(last["val/nll_response"]), rel=1e-6)
    assert rows["orpo"]["validated_at"] == "32"
    assert float(rows["orpo"]["margin"]) == pytest.approx(float(last["val/pref/margins"]), rel=1e-6)
    tests = json.loads(Path("all.json").read_text())["tests"]
    assert {(each["run"], each["pairs"]) for each in tests} == {("orpo", 40), ("short", 40)}


def test_mistakes_are_answered_in_a_sentence(orpo_lightning):
    with pytest.raises(ValueError, match="nowhere: there is no such place"):
        orpo_lightning("compare", "nowhere")
    with pytest.raises(ValueError, match=r"--csv no/rows\.csv: there is no folder no"):
        orpo_lightning("compare", "nowhere", "--csv", "no/rows.csv")
    with pytest.raises(ValueError, match=r"--json \.: it is a folder; accepted: a file in it"):
        orpo_lightning("compare", "nowhere", "--json", ".")
    with pytest.raises(ValueError, match=r"--csv /proc/rows\.csv: nothing can be written there \(.*\); accepted"):
        orpo_lightning("compare", "nowhere", "--csv", "/proc/rows.csv")
    with pytest.raises(SystemExit):
        orpo_lightning("compare")


def test_a_run_that_cannot_be_read_is_left_out_and_said_to_be(orpo_lightning, capsys):
    for name in ("a", "b", "c"):
        make_run(Path("runs", name), pairs=pairs_of([1.0, -1.0] * 6))
    Path("runs/b/run.json").write_text("{")
    orpo_lightning("compare", "runs", "--baseline", "./runs/c/")
    printed = capsys.readouterr().out
    assert "b is left out: " in printed
    assert "Difference from c" in printed
