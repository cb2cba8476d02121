"""The account of the data beside a run."""

import json

import pytest
from lightning import Trainer

from orpo_lightning import ORPO, PolicyConfig, PreferenceDataModule, PreferenceModule
from orpo_lightning.callbacks.data_report import DataReport
from orpo_lightning.run_folder import DATA_REPORT_FILE


@pytest.fixture
def fitted(tmp_path):
    good = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, "chosen": ""}, good)))
    data = PreferenceDataModule(train=str(path), val="sample", tokenizer="tiny", global_batch_size=2)
    trainer = Trainer(
        max_steps=1,
        logger=False,
        callbacks=[DataReport()],
        default_root_dir=tmp_path / "run",
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(PreferenceModule(ORPO(), PolicyConfig("tiny")), data)
    return tmp_path / "run", data


def test_the_file_accounts_for_every_row(fitted):
    folder, data = fitted
    report = json.loads((folder / DATA_REPORT_FILE).read_text())
    assert set(report) == {"train", "validation"}
    train = report["train"]
    assert train["read"] == 3 == train["kept"] + sum(train["dropped"].values())
    assert train["dropped"] == {"empty_chosen": 1}
    assert train["dropped_rows"] == [
        [f"{data.train[0].path}:2", "empty_chosen", "The chosen response is empty or whitespace"]
    ]
    assert not list(folder.glob("*.part"))
