"""Runs are found where they are, named apart, and read as they were written."""

import re

import pytest
from comparison_runs import answer, config, make_run, pairs_of

from orpo_lightning.comparison.differences import NOT_A_SETTING, differing_settings, group_repeats
from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.summary.record import RunRecord


def test_a_folder_a_folder_of_runs_and_a_pattern_give_each_run_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "sweep/trials/000", "sweep/trials/001"):
        make_run(tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    assert [run.name for run in read_runs(["runs/a"])] == ["a"]
    assert [run.name for run in read_runs(["runs/sweep"])] == ["000", "001"]
    assert [run.name for run in read_runs(["runs/sweep/trials/00*", "runs/a", "runs"])] == ["000", "001", "a"]


def test_runs_of_one_name_are_told_apart_by_what_is_before_it(tmp_path):
    for name in ("orpo/first", "dpo/first"):
        make_run(tmp_path / name)
    assert [run.name for run in read_runs([str(tmp_path)])] == ["dpo/first", "orpo/first"]


@pytest.mark.parametrize(
    ("place", "what"),
    [("nothing", "there is no such place"), ("empty", "no run is in it"), ("nothing*", "there is no such place")],
)
def test_a_place_without_a_run_is_named(tmp_path, monkeypatch, place, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "a")
    with pytest.raises(ValueError, match=rf"^{re.escape(place)}: {what}; accepted: .*run\.json, a folder of such"):
        read_runs(["a", place])


def test_a_run_tells_what_it_trained_and_what_it_measured_last(tmp_path):
    pairs = [*pairs_of([0.5], step=0), *pairs_of([1.5], step=4), *pairs_of([9.0], step=4, set="other")]
    make_run(tmp_path / "a", pairs=pairs, metrics={0: {"val/x": 1.0}, 4: {"val/x": 3.0}}, answers=[answer()])
    (run,) = read_runs([str(tmp_path / "a")])
    assert run.label == "ORPO lambda 0.1 tiny"
    assert run.sets == ("", "other")
    assert [pair.margin for pair in run.last_pairs("")] == [1.5]
    assert [pair.margin for pair in run.last_pairs("other")] == [9.0]
    assert run.last("val/x") == 3.0
    assert run.last("val/y") is None
    assert run.answers == [answer()]


def test_settings_have_the_keys_that_are_typed(tmp_path):
    make_run(tmp_path / "a")
    (run,) = read_runs([str(tmp_path / "a")])
    assert run.settings["model.objective"] == "orpo_lightning.ORPO"
    assert run.settings["model.objective.lambda_"] == 0.1
    assert run.settings["model.policy.lora.r"] == 0
    assert run.settings["seed_everything"] == 0


@pytest.fixture
def four_runs(tmp_path):
    for name, options in {
        "a": {"lambda_": 0.1},
        "b": {"lambda_": 0.1, "seed": 1},
        "c": {"lambda_": 0.5},
        "d": {"objective": "DPO", "beta": 0.1},
    }.items():
        make_run(tmp_path / name, configuration=config(folder=name, **options))
    return read_runs([str(tmp_path)])


def test_differences_are_the_settings_that_are_not_the_same_and_not_the_place(four_runs):
    assert differing_settings(four_runs[:2]) == {"seed_everything": [0, 1]}
    assert differing_settings([four_runs[0], four_runs[2]]) == {"model.objective.lambda_": [0.1, 0.5]}
    assert differing_settings([four_runs[0], four_runs[3]]) == {
        "model.objective": ["orpo_lightning.ORPO", "orpo_lightning.DPO"],
        "model.objective.lambda_": [0.1, NOT_A_SETTING],
        "model.objective.beta": [NOT_A_SETTING, 0.1],
    }
    assert differing_settings(four_runs[:1]) == {}


def test_repeats_differ_by_nothing_but_the_seed(four_runs):
    assert [[run.name for run in group.runs] for group in group_repeats(four_runs)] == [["a", "b"], ["c"], ["d"]]


def test_an_objective_without_a_strength_is_labelled_without(tmp_path):
    make_run(tmp_path / "a", record=RunRecord("complete", objective="SFT", model="tiny"))
    assert read_runs([str(tmp_path / "a")])[0].label == "SFT tiny"


BROKEN = {
    "run.json": ('{"status": "paused"}', r"run\.json: status = 'paused'; accepted: running, complete, stopped, failed"),
    "metrics.csv": ("epoch,val/x\n0,1.0\n", r"metrics\.csv cannot be read as the measures .* with a column step"),
    "data_report.json": ('{"train": {"re', r"data_report\.json cannot be read as the data report of a run \(Unterm"),
    "config.yaml": ("model: [\n", r"config\.yaml cannot be read as YAML \(while parsing .*\); accepted: the file"),
    "val_pairs.csv": ("step,loss\n1,2\n", r"val_pairs\.csv cannot be read as the validation pairs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_does_not_keep_the_other_runs_of_a_sweep_from_being_read(tmp_path, name):
    text, sentence = BROKEN[name]
    for folder in ("a", "b"):
        make_run(tmp_path / folder, pairs=pairs_of([0.5]))
    (tmp_path / "b" / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{sentence}.*; or leave .*b out"):
        read_runs([str(tmp_path), str(tmp_path / "b")], [].append)
    told = []
    assert [run.name for run in read_runs([str(tmp_path)], told.append)] == ["a"]
    assert len(told) == 1
    assert told[0].startswith("b is left out: ")
    assert name in told[0]
    with pytest.raises(ValueError, match="no run can be read; b is left out"):
        read_runs([str(tmp_path / "b*")], told.append)


def test_a_run_without_a_configuration_is_a_run(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "a" / "config.yaml").unlink()
    (run,) = read_runs([str(tmp_path / "a")])
    assert run.settings == {}


def test_settings_that_change_no_step_come_last(tmp_path):
    for name, rate, bar in (("a", 1e-3, True), ("b", 1e-4, False)):
        settings = config(folder=name)
        settings["trainer"] = {"enable_progress_bar": bar, "gradient_clip_val": rate, **settings["trainer"]}
        make_run(tmp_path / name, configuration=settings)
    found = differing_settings(read_runs([str(tmp_path)]))
    assert list(found) == ["trainer.gradient_clip_val", "trainer.enable_progress_bar"]
