"""What is read back of a run."""

import os

from orpo_lightning.run_folder import config_of, metrics_of

METRICS = "step,epoch,train/loss,val/loss\n0,0,3.0,\n1,0,2.0,5.0\n2,1,1.0,\n3,1,0.5,4.0\n"


def test_the_last_value_of_each_measure_within_the_steps(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    assert metrics_of(tmp_path, steps=4) == {"train/loss": 0.5, "val/loss": 4.0}
    assert metrics_of(tmp_path, steps=3) == {"train/loss": 1.0, "val/loss": 5.0}
    assert metrics_of(tmp_path, steps=1) == {"train/loss": 3.0}


def test_the_config_is_the_one_saved_last(tmp_path):
    for time, name in enumerate(("config.yaml", "config-10.yaml", "config-2.yaml"), start=1):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (time, time))
    assert config_of(tmp_path) == "config-2.yaml"


def test_a_folder_that_is_not_of_a_run_has_none_of_it(tmp_path):
    assert (config_of(tmp_path), metrics_of(tmp_path, 9)) == (None, {})
