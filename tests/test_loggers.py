"""metrics.csv: a row per optimizer step, complete on disk whenever a call has returned."""

import csv
import os
import signal

import pytest

from orpo_lightning.loggers import MetricsFile


def rows_of(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def log_steps(folder, steps, **values):
    logger = MetricsFile(folder)
    for step in steps:
        logger.log_metrics({"epoch": 0, **values}, step=step)
    return logger


def test_every_step_has_a_row(tmp_path):
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"epoch": 0, "loss": 0.5}, step=0)
    logger.log_metrics({"epoch": 0, "loss": 0.25}, step=3)
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,loss\n0,0,0.5\n3,0,0.25\n"


def test_what_is_logged_for_the_same_step_shares_a_row(tmp_path):
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"loss": 0.5}, step=0)
    logger.log_metrics({"lr": 0.1}, step=0)
    logger.log_metrics({"loss": 0.25}, step=1)
    logger.log_metrics({"lr": 0.2}, step=1)
    assert rows_of(tmp_path) == [
        {"step": "0", "epoch": "", "loss": "0.5", "lr": "0.1"},
        {"step": "1", "epoch": "", "loss": "0.25", "lr": "0.2"},
    ]


def test_a_value_logged_twice_for_a_step_is_the_later_one(tmp_path):
    logger = MetricsFile(tmp_path)
    # a shorter line than the one it replaces
    logger.log_metrics({"loss": 0.123456789}, step=0)
    logger.log_metrics({"loss": 7}, step=0)
    logger.log_metrics({"loss": 8}, step=1)
    assert [row["loss"] for row in rows_of(tmp_path)] == ["7", "8"]


def test_a_column_that_comes_later_is_empty_in_earlier_rows(tmp_path):
    logger = log_steps(tmp_path, [0, 1], loss=0.5)
    logger.log_metrics({"val": 0.25}, step=1)
    logger.log_metrics({"loss": 0.75}, step=2)
    assert [(row["step"], row["loss"], row["val"]) for row in rows_of(tmp_path)] == [
        ("0", "0.5", ""),
        ("1", "0.5", "0.25"),
        ("2", "0.75", ""),
    ]


def test_a_name_with_a_comma_stays_one_column(tmp_path):
    MetricsFile(tmp_path).log_metrics({'a,"b"': 1.5}, step=0)
    assert rows_of(tmp_path)[0]['a,"b"'] == "1.5"


def test_a_run_that_goes_on_replaces_the_rows_from_its_first_step(tmp_path):
    log_steps(tmp_path, range(6), loss=1)
    log_steps(tmp_path, [3, 4], loss=2)
    assert [(row["step"], row["loss"]) for row in rows_of(tmp_path)] == [
        ("0", "1"),
        ("1", "1"),
        ("2", "1"),
        ("3", "2"),
        ("4", "2"),
    ]


def test_a_run_that_goes_on_has_the_columns_of_both_parts(tmp_path):
    log_steps(tmp_path, range(3), old=1, older=3)
    log_steps(tmp_path, [2], new=2)
    assert [(row["step"], row["old"], row["older"], row["new"]) for row in rows_of(tmp_path)] == [
        ("0", "1", "3", ""),
        ("1", "1", "3", ""),
        ("2", "", "", "2"),
    ]


def test_steps_are_compared_as_numbers(tmp_path):
    log_steps(tmp_path, [2, 9, 10, 11], loss=1)
    log_steps(tmp_path, [10], loss=2)
    assert [row["step"] for row in rows_of(tmp_path)] == ["2", "9", "10"]


def test_a_run_that_starts_again_starts_the_file_again(tmp_path):
    log_steps(tmp_path, range(3), old=1)
    log_steps(tmp_path, [0], new=2)
    assert rows_of(tmp_path) == [{"step": "0", "epoch": "0", "new": "2"}]


def test_a_logger_that_logs_nothing_leaves_the_file_alone(tmp_path):
    log_steps(tmp_path, range(3), loss=1)
    before = (tmp_path / "metrics.csv").read_bytes()
    MetricsFile(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_row_that_was_cut_off_is_replaced_when_the_run_goes_on(tmp_path):
    log_steps(tmp_path, range(3), loss=1)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-3])  # the last row is "2,0" now
    log_steps(tmp_path, [2], loss=5)
    assert [(row["step"], row["loss"]) for row in rows_of(tmp_path)] == [("0", "1"), ("1", "1"), ("2", "5")]


def test_the_file_is_complete_after_every_call(tmp_path):
    logger = MetricsFile(tmp_path)
    expected = {}
    for step, values in [(0, {"a": 1}), (0, {"b": 2}), (1, {"a": 3}), (1, {"c": 4}), (1, {"b": 5}), (2, {"a": 6})]:
        logger.log_metrics(values, step=step)
        expected.setdefault(str(step), {}).update({name: str(value) for name, value in values.items()})
        found = {row["step"]: {k: v for k, v in row.items() if k != "step" and v} for row in rows_of(tmp_path)}
        assert found == expected


def test_nothing_is_lost_when_the_process_is_killed_right_after_the_call(tmp_path):
    child = os.fork()
    if child == 0:
        logger = log_steps(tmp_path, [0], loss=1)
        logger.log_metrics({"val": 2}, step=0)
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert rows_of(tmp_path) == [{"step": "0", "epoch": "0", "loss": "1", "val": "2"}]


@pytest.mark.parametrize("value", [0.1, 1 / 3, -2.5e-12, 6.02e23, 12345.678, 0.0, 3])
def test_values_parse_back(tmp_path, value):
    MetricsFile(tmp_path).log_metrics({"loss": value}, step=0)
    assert float(rows_of(tmp_path)[0]["loss"]) == pytest.approx(value, rel=1e-9, abs=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_parse_back(tmp_path, value):
    MetricsFile(tmp_path).log_metrics({"loss": value}, step=0)
    assert float(rows_of(tmp_path)[0]["loss"]) == pytest.approx(value, nan_ok=True)


def test_the_folder_is_made_when_it_is_needed(tmp_path):
    logger = MetricsFile(tmp_path / "runs" / "one")
    assert not (tmp_path / "runs").exists()
    logger.log_metrics({"loss": 1}, step=0)
    assert rows_of(tmp_path / "runs" / "one")[0]["loss"] == "1"


def test_no_other_file_is_left_in_the_folder(tmp_path):
    log_steps(tmp_path, range(3), loss=1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_logging_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="log with a step"):
        MetricsFile(tmp_path).log_metrics({"loss": 1})


def test_the_folder_is_where_checkpoints_go_as_well(tmp_path):
    logger = MetricsFile(tmp_path)
    assert os.path.join(logger.save_dir, logger.name, logger.version) == os.path.join(str(tmp_path), "", "")
