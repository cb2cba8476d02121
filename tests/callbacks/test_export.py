"""A fit leaves its model behind as a folder."""

import os

import pytest
import torch
from lightning import Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo_lightning import DPO, ORPO, OptimizerConfig, PolicyConfig, PreferenceDataModule, PreferenceModule
from orpo_lightning.callbacks import export as module
from orpo_lightning.callbacks.export import ExportModel
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.models.loading import load_causal_lm
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.models.tokenizer import DEFAULT_TEMPLATE, load_tokenizer

TINY = PolicyConfig("tiny")


def fit(folder, objective=None, callback=None, policy=TINY, **options):
    trainer = Trainer(
        default_root_dir=folder,
        callbacks=[callback or ExportModel()],
        **{"max_steps": 2, "val_check_interval": 2, **options},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    preference = PreferenceModule(objective or ORPO(), policy=policy, optimizer=OptimizerConfig(lr=1e-2))
    trainer.fit(preference, PreferenceDataModule(tokenizer=policy.name_or_path, max_length=512, max_prompt_length=256))
    return preference


def test_the_folder_holds_the_trained_weights_and_not_the_references(tmp_path):
    trained = fit(tmp_path, DPO()).policy.net
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert found.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in found.state_dict().items())
    start = load_causal_lm(PolicyConfig("tiny")).state_dict()
    assert not torch.equal(found.lm_head.weight, start["lm_head.weight"])


def test_without_the_command_line_the_card_knows_objective_data_and_measures(tmp_path):
    fit(tmp_path, ORPO(lambda_=0.7))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "ORPO(lambda_=0.7" in card
    assert "train: sample (text): 250 rows read, 250 kept" in card
    assert "| train/loss |" in card
    assert "for 2 optimizer steps" in card


def test_the_template_of_the_training_goes_with_a_model_that_had_none(tmp_path):
    base = tmp_path / "base"
    load_causal_lm(PolicyConfig("tiny")).save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny"))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    fit(tmp_path / "run", policy=PolicyConfig(str(base)))
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").chat_template == DEFAULT_TEMPLATE
    assert load_tokenizer(str(base)).chat_template == DEFAULT_TEMPLATE


def test_an_adapter_is_merged(tmp_path):
    net = fit(tmp_path, policy=PolicyConfig("tiny", lora=LoraConfig(r=4))).policy.net.eval()
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.tensor([[7, 50, 300, 12]])
    torch.testing.assert_close(found(ids).logits, net(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arguments", [{"callback": ExportModel(enabled=False)}, {"fast_dev_run": 2}], ids=["switched off", "fast_dev_run"]
)
def test_no_folder_where_none_is_wanted(tmp_path, arguments):
    fit(tmp_path, **arguments)
    assert not (tmp_path / "model").exists()


def test_another_name_for_the_folder(tmp_path):
    fit(tmp_path, callback=ExportModel(folder="final"))
    assert os.listdir(tmp_path) == ["final"]


def test_a_run_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(PreferenceModule, "training_step", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path)
    assert not (tmp_path / "model").exists()


def test_an_export_that_fails_leaves_no_half_folder(tmp_path, monkeypatch):
    def fail(net, tokenizer, folder):
        (folder / "half").touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "write_model", fail)
    with pytest.raises(OSError, match="no space left"):
        fit(tmp_path)
    assert os.listdir(tmp_path) == []


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(module.rank_zero_only, "rank", 1)
    fit(tmp_path)
    assert not (tmp_path / "model").exists()
