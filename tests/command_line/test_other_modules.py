"""A configuration file can bring another module with its own data: nothing of preference data is assumed."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

TASK = '''
import torch
from lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset


class Line(LightningModule):
    """Fits a line.

    Args:
        rate: learning rate.
        slope: where the weight starts.
    """

    def __init__(self, rate: float = 0.1, slope: float = 0.0) -> None:
        super().__init__()
        self.rate = rate
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def loss(self, batch):
        x, y = batch
        return ((self.slope * x - y) ** 2).mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Points(LightningDataModule):
    """Points on a line.

    Args:
        count: how many.
    """

    def __init__(self, count: int = 8) -> None:
        super().__init__()
        x = torch.linspace(0, 1, count)
        self.points = TensorDataset(x, 3 * x)

    def train_dataloader(self):
        return DataLoader(self.points, batch_size=4)

    def val_dataloader(self):
        return DataLoader(self.points, batch_size=4)
'''
CONFIG = """
model:
  class_path: my_task.Line
  init_args: {rate: 0.5}
data:
  class_path: my_task.Points
  init_args: {count: 12}
trainer:
  max_epochs: 3
  default_root_dir: runs/line
"""
QUIET = ["--trainer.enable_progress_bar=false"]


@pytest.fixture
def _task(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_task.py").write_text(TASK)
    (tmp_path / "line.yaml").write_text(CONFIG)
    yield
    sys.modules.pop("my_task", None)


@pytest.mark.usefixtures("_task")
def test_it_runs_under_fit_and_validate_with_a_run_folder_of_its_own(orpo_lightning, capfd, notes):
    orpo_lightning("fit", "--config=line.yaml", "--model.slope=1", "--data.count=16", *QUIET)
    summary = capfd.readouterr().out
    assert "No preference pairs were validated" in summary
    assert "Nothing was validated" not in summary
    assert "orpo-lightning generate" not in summary
    assert "orpo-lightning generate" not in Path("runs/line/summary.md").read_text()
    assert "fit: Line; trains 1 parameters; cpu, 32-true" in notes
    run = Path("runs/line")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(12))
    assert float(rows[-1]["val/loss"]) < float(rows[0]["train/loss"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"] == {"class_path": "my_task.Line", "init_args": {"rate": 0.5, "slope": 1.0}}
    assert config["data"] == {"class_path": "my_task.Points", "init_args": {"count": 16}}
    assert config["trainer"]["use_distributed_sampler"] is True
    assert not (run / "data_report.json").exists()
    assert not (run / "model").exists()
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    slope = torch.load(checkpoint, weights_only=True)["state_dict"]["slope"].item()
    assert 2 < slope < 3

    orpo_lightning("validate", "--config=runs/line/config.yaml", "--ckpt_path", checkpoint, *QUIET)
    assert "val/loss" in capfd.readouterr().out


@pytest.mark.usefixtures("_task")
def test_it_goes_over_a_configuration_of_preference_data(orpo_lightning, printed_config):
    printed = yaml.safe_load(printed_config("fit", "--config=orpo", "--config=line.yaml"))
    assert printed["model"]["init_args"] == {"rate": 0.5, "slope": 0.0}
    assert printed["data"]["init_args"] == {"count": 12}


@pytest.mark.usefixtures("_task")
def test_its_mistakes_are_answered_with_its_own_settings(refusal):
    assert refusal("fit", "--config=line.yaml", "--model.rat=1") == (
        "--model.rat is not a setting; did you mean --model.rate? accepted: rate, slope"
    )
    Path("line.yaml").write_text(CONFIG.replace("count", "cuont"))
    assert refusal("fit", "--config=line.yaml") == (
        "line.yaml:7: data.cuont is not a setting; did you mean data.count? accepted: count"
    )


@pytest.mark.usefixtures("_task")
def test_its_settings_are_described(orpo_lightning, capsys):
    orpo_lightning("fit", "--model.help", "my_task.Line")
    assert "--model.rate   learning rate. [0.1]" in capsys.readouterr().out


@pytest.mark.usefixtures("_task")
def test_the_verb_data_refuses_it(refusal):
    assert refusal("data", "--config=line.yaml") == "the verb data reads preference data, and data is a Points"


def test_the_batch_plan_of_preference_data_splits_over_ranks_itself(orpo_lightning):
    orpo_lightning("fit", "--config=orpo", "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET)
    config = yaml.safe_load(Path("runs/orpo/config.yaml").read_text())
    assert config["trainer"]["use_distributed_sampler"] is False
    assert json.loads(Path("runs/orpo/data_report.json").read_text())["train"]["kept"]
