"""From a fit to a model elsewhere: RUN/model, the next stage, and export from a checkpoint."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from orpo_lightning.cache_folder import CACHE_VARIABLE
from orpo_lightning.models import hub, pretrained, short_names
from orpo_lightning.models.checkpoint import load_policy, read_checkpoint
from orpo_lightning.models.identity import fingerprint
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = [*QUIET, "--trainer.max_steps=2", "--trainer.limit_val_batches=1"]


def bytes_of(folder, besides=()):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name not in besides}


def weights_of(name):
    return fingerprint(load_causal_lm(PolicyConfig(str(name))))


def test_every_fit_ends_with_a_model_that_is_the_last_checkpoints(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "dpo.yaml", *QUIET)
    run = Path("runs/dpo")
    file = run / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)["state_dict"]
    found = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(value, saved[f"policy.net.{name}"]) for name, value in found.items())
    card = (run / "model" / "README.md").read_text()
    assert "`DPO(beta=0.1, label_smoothing=0.0, length_normalized=False)`" in card
    assert (run / "config.yaml").read_text().strip() in card
    assert "train: sample (text): 250 rows read, 250 kept, dropped: none" in card
    with (run / "metrics.csv").open() as metrics:
        last = list(csv.DictReader(metrics))[-1]
    assert f"| val/pref/accuracies | {float(last['val/pref/accuracies']):.6g} |" in card


@pytest.mark.parametrize("source", ["runs/dpo", "the file"])
def test_an_exported_checkpoint_is_the_model_of_the_run(orpo_lightning, tmp_path, monkeypatch, capsys, source):
    orpo_lightning("fit", "--config", CONFIGS / "dpo.yaml", *SHORT)
    file = Path("runs/dpo/checkpoints/last.ckpt")
    orpo_lightning("export", "--checkpoint", file if source == "the file" else source, "--out", "out/mine")
    assert bytes_of("out/mine", besides=["README.md"]) == bytes_of("runs/dpo/model", besides=["README.md"])
    exported, of_run = (Path(folder, "README.md").read_text() for folder in ("out/mine", "runs/dpo/model"))
    assert exported == of_run
    assert "train: sample (text): 250 rows read, 250 kept, dropped: none" in exported
    assert Path("runs/dpo/config.yaml").read_text().strip() in exported
    assert f"model of step 2 of {file} written to out/mine" in capsys.readouterr().out


@pytest.mark.slow
def test_the_bars_of_reading_and_writing_weights_are_left_out(orpo_lightning, capsys):
    transformers_logging.enable_progress_bar()
    load_causal_lm(PolicyConfig("tiny"))
    assert "Loading weights" in capsys.readouterr().err
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    printed = capsys.readouterr().err
    assert Path("runs/orpo/model").is_dir()
    assert "Loading weights" not in printed
    assert "Writing model" not in printed


@pytest.mark.slow
def test_sft_then_dpo_are_two_commands(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "sft.yaml", *SHORT)
    orpo_lightning("fit", "--config", CONFIGS / "dpo.yaml", "--model.policy.name_or_path", "runs/sft", *SHORT)
    after_sft = weights_of("runs/sft/model")
    file = Path("runs/dpo/checkpoints/last.ckpt")
    # the reference is the policy's start
    assert torch.load(file, weights_only=True)["reference"] == after_sft != weights_of("tiny")
    with Path("runs/dpo/metrics.csv").open() as metrics:
        assert float(next(csv.DictReader(metrics))["train/loss"]) == pytest.approx(0.6931472)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["runs/sft", "the file"])
def test_without_its_model_folder_a_run_goes_on_from_its_checkpoint(orpo_lightning, tmp_path, monkeypatch, start):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    orpo_lightning("fit", "--config", CONFIGS / "sft.yaml", "--export.enabled=false", *SHORT)
    assert not Path("runs/sft/model").exists()
    file = Path("runs/sft/checkpoints/last.ckpt")
    name = str(file) if start == "the file" else start
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--model.policy.name_or_path", name, *SHORT)
    saved = torch.load(file, weights_only=True)["state_dict"]["policy.net.lm_head.weight"]
    assert torch.equal(load_causal_lm(PolicyConfig(name)).lm_head.weight, saved)


@pytest.mark.slow
def test_a_model_at_the_end_is_not_written_where_none_is_wanted(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--trainer.fast_dev_run=2", *QUIET)
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--export.enabled=false", *SHORT)
    assert list(Path("runs").glob("*/model")) == []
    assert yaml.safe_load(Path("runs/orpo/config.yaml").read_text())["export"] == {"enabled": False, "folder": "model"}


@pytest.mark.slow
def test_a_resumed_fit_writes_its_model_again(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    before = weights_of("runs/orpo")
    file = Path("runs/orpo/checkpoints/last.ckpt")
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--ckpt_path", file, *SHORT, "--trainer.max_steps=4")
    assert weights_of("runs/orpo") != before
    assert "for 4 optimizer steps" in Path("runs/orpo/model/README.md").read_text()


def test_a_folder_that_holds_something_is_refused_before_anything_is_read(orpo_lightning, monkeypatch):
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    with pytest.raises(ValueError, match=r"--out out: something is there; accepted: a folder that is empty or not"):
        orpo_lightning("export", "--checkpoint", "nowhere.ckpt", "--out", "out")
    assert os.listdir("out") == ["mine.txt"]


@pytest.mark.slow
def test_an_empty_folder_is_taken(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    Path("out").mkdir()
    orpo_lightning("export", "--checkpoint", "runs/orpo", "--out", "out")
    assert weights_of("out") == weights_of("runs/orpo")


@pytest.mark.slow
def test_the_current_folder_is_taken(orpo_lightning, monkeypatch):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    Path("out").mkdir()
    monkeypatch.chdir("out")
    orpo_lightning("export", "--checkpoint", "../runs/orpo", "--out", ".")
    assert weights_of(".") == weights_of("../runs/orpo")
    assert os.listdir(".") == os.listdir("../out")


@pytest.fixture
def adapter_run(orpo_lightning):
    """A run of DPO with LoRA, and its policy at the end."""
    lora = ["--config", CONFIGS / "model" / "lora.yaml", "--model.policy.lora.r=4"]
    orpo_lightning("fit", "--config", CONFIGS / "dpo.yaml", *lora, *SHORT)
    net = load_policy(read_checkpoint("runs/dpo")).eval()
    assert any(parameter.any() for name, parameter in net.named_parameters() if "lora_B" in name)
    return net


IDS = torch.tensor([[7, 50, 300, 12]])


@pytest.mark.slow
def test_an_adapter_is_exported_alone(orpo_lightning, adapter_run, capsys):
    orpo_lightning("export", "--checkpoint", "runs/dpo", "--out", "out")
    assert "adapter of step 2" in capsys.readouterr().out
    assert not Path("out/model.safetensors").exists()
    assert "library_name: peft" in Path("out/README.md").read_text()
    found = PeftModel.from_pretrained(load_causal_lm(PolicyConfig("tiny")), "out").eval()
    assert torch.equal(found(IDS).logits, adapter_run(IDS).logits)


@pytest.mark.slow
def test_an_adapter_whose_base_has_other_weights_on_the_hub_is_printed_to_be(
    orpo_lightning, adapter_run, monkeypatch, capsys
):
    monkeypatch.setitem(short_names.HUB_IDS, "tiny", "someone/tiny")
    monkeypatch.setitem(short_names.HUB_DIFFERENCES, "tiny", "made smaller")
    orpo_lightning("export", "--checkpoint", "runs/dpo", "--out", "out")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("This adapter was trained on tiny, the weights of someone/tiny made smaller, and with those")
    assert line in Path("out/README.md").read_text()
    orpo_lightning("export", "--checkpoint", "runs/dpo", "--out", "merged", "--merge-adapter")
    assert "This adapter" not in capsys.readouterr().out + Path("merged/README.md").read_text()


@pytest.mark.slow
def test_an_exported_adapter_is_a_model_elsewhere_too(orpo_lightning, adapter_run, tmp_path, monkeypatch):
    orpo_lightning("export", "--checkpoint", "runs/dpo", "--out", "out")
    shutil.move("out", tmp_path / "mine")
    shutil.rmtree("runs")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "another cache"))
    assert json.loads(Path("mine/adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    found = load_causal_lm(PolicyConfig("mine")).eval()
    torch.testing.assert_close(found(IDS).logits, adapter_run(IDS).logits, rtol=1e-4, atol=1e-4)
    Path("questions.txt").write_text("Name a colour.\n")
    orpo_lightning(
        *("generate", "--model", "mine", "--prompts", "questions.txt", "--out", "out.jsonl", "--max-new-tokens=4")
    )
    assert json.loads(Path("out.jsonl").read_text())["tokens"] > 0
    orpo_lightning("fit", "--config", CONFIGS / "dpo.yaml", "--model.policy.name_or_path", "mine", *SHORT)
    assert weights_of("runs/dpo") != weights_of("mine")


@pytest.mark.slow
def test_an_adapter_on_a_users_own_model_names_its_folder(orpo_lightning, tmp_path):
    base = shutil.copytree(pretrained.resolve("tiny"), tmp_path / "base")
    lora = ["--config", CONFIGS / "model" / "lora.yaml", "--model.policy.lora.r=4"]
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--model.policy.name_or_path", "base", *lora, *SHORT)
    orpo_lightning("export", "--checkpoint", "runs/orpo", "--out", "out")
    assert json.loads(Path("out/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    of_peft = AutoPeftModelForCausalLM.from_pretrained("out").eval()
    trained = load_policy(read_checkpoint("runs/orpo")).eval()
    assert torch.equal(of_peft(IDS).logits, trained(IDS).logits)


def test_an_adapter_is_merged_on_demand(orpo_lightning, adapter_run):
    orpo_lightning("export", "--checkpoint", "runs/dpo", "--out", "out", "--merge-adapter")
    assert not Path("out/adapter_config.json").exists()
    found = AutoModelForCausalLM.from_pretrained("out").eval()
    torch.testing.assert_close(found(IDS).logits, adapter_run(IDS).logits, rtol=1e-4, atol=1e-4)
    # and that is what the run itself left
    assert bytes_of("out", besides=["README.md"]) == bytes_of("runs/dpo/model", besides=["README.md"])


@pytest.mark.slow
def test_a_run_goes_on_from_the_merged_model_of_another(orpo_lightning, adapter_run):
    orpo_lightning("fit", "--config", CONFIGS / "ipo.yaml", "--model.policy.name_or_path", "runs/dpo", *SHORT)
    assert weights_of("runs/dpo") != weights_of("runs/ipo")


@pytest.mark.slow
@pytest.mark.parametrize(("options", "private"), [([], True), (["--public"], False)])
def test_the_exported_folder_is_pushed_when_it_is_whole(orpo_lightning, monkeypatch, capsys, options, private):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    monkeypatch.setattr(hub, "check_upload", lambda repo_id: None)
    pushed = []

    def upload(folder, repo_id, private):
        pushed.append((bytes_of(folder), repo_id, private))
        return "https://hub/me/x"

    monkeypatch.setattr(hub, "upload", upload)
    orpo_lightning("export", "--checkpoint", "runs/orpo", "--out", "out", "--push-to", "me/x", *options)
    assert pushed == [(bytes_of("out"), "me/x", private)]
    assert "uploaded to https://hub/me/x" in capsys.readouterr().out


def test_what_is_not_pushed_is_not_public(orpo_lightning, capsys):
    with pytest.raises(SystemExit) as error:
        orpo_lightning("export", "--checkpoint", "nowhere.ckpt", "--out", "out", "--public")
    assert error.value.code == 2
    assert "--public is of a repository that --push-to makes" in capsys.readouterr().err


def test_nothing_is_pushed_where_the_export_fails(orpo_lightning, monkeypatch):
    monkeypatch.setattr(hub, "check_upload", lambda repo_id: None)
    monkeypatch.setattr(hub, "upload", lambda *args: pytest.fail("it was uploaded"))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at 'nowhere\.ckpt'"):
        orpo_lightning("export", "--checkpoint", "nowhere.ckpt", "--out", "out", "--push-to", "me/x")
    assert not Path("out").exists()


def test_nothing_is_read_where_a_push_cannot_succeed(orpo_lightning):
    with pytest.raises(ValueError, match="--push-to two words: not a hub id"):
        orpo_lightning("export", "--checkpoint", "nowhere.ckpt", "--out", "out", "--push-to", "two words")


@pytest.mark.parametrize("verb", ["export", "generate"])
def test_options_are_whole_names_and_mistakes_are_answered_in_one_line(orpo_lightning, capsys, verb):
    with pytest.raises(SystemExit) as error:
        orpo_lightning(verb, "--ou", "x")
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"orpo-lightning {verb}: the following arguments are required: ")
    assert line.endswith(f"(options: orpo-lightning {verb} --help)")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("export", ["--checkpoint", "--out", "--merge-adapter", "--push-to", "--public", "--trust-remote-code"]),
        ("generate", ["--model", "--prompts", "--out", "--max-new-tokens", "--temperature", "--top-p", "--seed"]),
    ],
)
def test_the_help_of_a_verb_lists_its_options(orpo_lightning, capsys, verb, options):
    with pytest.raises(SystemExit):
        orpo_lightning(verb, "--help")
    printed = capsys.readouterr().out
    assert all(option in printed for option in options)
