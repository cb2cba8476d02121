"""What a run is, in every logger that it is given, once and as plain data."""

import json

import pytest
import yaml
from helpers import Recorder
from lightning import Trainer

from orpo_lightning import ORPO, PolicyConfig, PreferenceDataModule, PreferenceModule
from orpo_lightning.callbacks.describe_run import DescribeRun

CONFIG = {"model": {"objective": {"lambda_": 0.1}}, "seed_everything": 0, "data": None}


class Described(Recorder):
    def __init__(self):
        super().__init__()
        self.calls = []

    def log_hyperparams(self, params, *args, **kwargs):
        self.calls.append(params)


@pytest.fixture
def described(tmp_path):
    """What two loggers are told in a fit on three rows, one of them without a chosen response."""
    good = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, "chosen": ""}, good)))
    data = PreferenceDataModule(train=str(path), val="sample", tokenizer="tiny", global_batch_size=2)
    loggers = [Described(), Described()]
    trainer = Trainer(
        max_steps=1,
        logger=loggers,
        callbacks=[DescribeRun(CONFIG)],
        default_root_dir=tmp_path / "run",
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(PreferenceModule(ORPO(), PolicyConfig("tiny")), data)
    return [logger.calls for logger in loggers]


def test_every_logger_is_told_once(described):
    first, second = described
    assert len(first) == len(second) == 1
    assert first == second


def test_it_is_told_the_configuration_and_the_numbers_of_the_data_as_plain_data(described):
    (told,) = described[0]
    assert {name: told[name] for name in CONFIG} == CONFIG
    numbers = told["data_report"]["train"]
    assert (numbers["read"], numbers["kept"], numbers["dropped"]) == (3, 2, {"empty_chosen": 1})
    assert "dropped_rows" not in numbers
    assert set(told["data_report"]) == {"train", "validation"}
    assert yaml.safe_load(yaml.dump(told)) == told
