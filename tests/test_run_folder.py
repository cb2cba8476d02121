"""What is read back of a run."""

import os

import pytest

from orpo_lightning.run_folder import config_of, metrics_of

# validations after 2 and 4 steps
METRICS = "step,epoch,train/loss,val/loss\n0,0,3.0,\n1,0,2.0,\n2,1,1.0,5.0\n3,1,0.5,\n4,1,,4.0\n"


def test_the_last_value_of_each_measure_within_the_steps(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    assert metrics_of(tmp_path, steps=4) == {"train/loss": 0.5, "val/loss": 4.0}
    assert metrics_of(tmp_path, steps=3) == {"train/loss": 1.0, "val/loss": 5.0}
    assert metrics_of(tmp_path, steps=2) == {"train/loss": 2.0, "val/loss": 5.0}
    assert metrics_of(tmp_path, steps=1) == {"train/loss": 3.0}


def saved(path, text, time):
    path.write_bytes(text.encode("latin-1"))
    os.utime(path, (time, time))


def test_the_config_is_the_one_saved_last(tmp_path):
    for time, name in enumerate(("config.yaml", "config-10.yaml", "config-2.yaml"), start=1):
        saved(tmp_path / name, f"model: {name}\ndata: null\n", time)
    assert config_of(tmp_path) == "model: config-2.yaml\ndata: null\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config_old.yaml", "model: mine\ndata: mine\n"),
        ("config-mine.yaml", "model: mine\ndata: mine\n"),
        ("config-2.yaml", "model: mine\n"),
        ("config-2.yaml", "- model\n- data\n"),
        ("config-2.yaml", "model: [\ndata:"),
        ("config-2.yaml", "model: \xff\ndata: mine\n"),
        ("config-2.yaml", ""),
    ],
)
def test_a_config_that_is_not_of_a_run_does_not_count(tmp_path, name, text):
    saved(tmp_path / name, text, 2)
    assert config_of(tmp_path) is None
    saved(tmp_path / "config.yaml", "model: ours\ndata: ours\n", 1)
    assert config_of(tmp_path) == "model: ours\ndata: ours\n"


def test_a_folder_that_is_not_of_a_run_has_none_of_it(tmp_path):
    assert (config_of(tmp_path), metrics_of(tmp_path, 9)) == (None, {})


@pytest.mark.parametrize(
    "content", ["a;b\n1;2\n", "epoch,a/b\n0,1\n", "step,a/b\nfirst,1\n", "step,a/b\n0,1,2,3\n", "step,a/b\n0,x\n"]
)
def test_a_file_of_measures_that_is_another_programs_is_passed_over(tmp_path, content):
    (tmp_path / "metrics.csv").write_text(content)
    assert metrics_of(tmp_path, steps=9) == {}
