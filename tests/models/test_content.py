"""Exported weights are those that were written, or are refused by name before they are read."""

import json
import shutil

import pytest
import torch
from helpers import with_random_trained_weights

from orpo_lightning import LoraConfig, ranks
from orpo_lightning.models.building import build_whole
from orpo_lightning.models.content import MODEL_MANIFEST, check_content_together, write_model_manifest
from orpo_lightning.models.damage import DamagedFileError
from orpo_lightning.models.export import write_adapter
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.models.tokenizer import load_tokenizer


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(resolve("tiny"), folder)
    write_model_manifest(folder, step=7, epoch=1, config="abc")
    return folder


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    net = with_random_trained_weights(load_causal_lm(PolicyConfig("tiny", lora=LoraConfig(r=2))))
    write_adapter(net, load_tokenizer("tiny"), folder, "tiny")
    write_model_manifest(folder, step=7, epoch=1, config="abc")
    return folder


def turn_a_bit(path, place=-5):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_it_says_from_which_step_and_configuration_the_weights_are_and_of_which_content(model):
    manifest = json.loads((model / MODEL_MANIFEST).read_text())
    assert (manifest["step"], manifest["epoch"], manifest["config"]) == (7, 1, "abc")
    assert manifest["sizes"] == {"model.safetensors": (model / "model.safetensors").stat().st_size}
    assert len(manifest["hashes"]["model.safetensors"]) == 64
    load_causal_lm(PolicyConfig(str(model)))


def test_weights_of_which_a_bit_has_turned_are_refused(model):
    turn_a_bit(model / "model.safetensors")
    with pytest.raises(DamagedFileError, match=r"model\.safetensors has been altered since it was written: copy or"):
        load_causal_lm(PolicyConfig(str(model)))


def test_weights_that_are_cut_off_or_gone_are_refused(model):
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(DamagedFileError, match=r"model.safetensors has [\d,]+ bytes and was written with"):
        load_causal_lm(PolicyConfig(str(model)))
    weights.unlink()
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is missing"):
        load_causal_lm(PolicyConfig(str(model)))


def test_an_adapter_is_refused_likewise_to_start_from_and_as_a_model(adapter):
    load_causal_lm(PolicyConfig(str(adapter)))
    turn_a_bit(adapter / "adapter_model.safetensors")
    for config in (PolicyConfig(str(adapter)), PolicyConfig("tiny", lora=LoraConfig(adapter=str(adapter)))):
        with pytest.raises(DamagedFileError, match=r"adapter_model\.safetensors has been altered"):
            load_causal_lm(config)


def test_what_surrounds_the_weights_may_be_edited_and_a_folder_without_a_manifest_is_taken(model):
    (model / "README.md").write_text("mine")
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(settings | {"max_new_tokens": 3}))
    load_causal_lm(PolicyConfig(str(model)))
    turn_a_bit(model / "model.safetensors")
    (model / MODEL_MANIFEST).unlink()
    load_causal_lm(PolicyConfig(str(model)))


@pytest.mark.parametrize(
    "check",
    [check_content_together, lambda folder: build_whole(PolicyConfig(str(folder)), lambda net: net)],
    ids=["of a folder", "of a model that each has all of"],
)
def test_of_several_processes_each_looks_at_its_share_and_all_hear_of_it(model, monkeypatch, check):
    for name in ("a", "b", "c"):
        torch.save({}, model / f"{name}.safetensors")
    write_model_manifest(model, step=7, epoch=1, config=None)
    looked_at = []
    monkeypatch.setattr("orpo_lightning.models.content.hash_once", lambda path, *state: looked_at.append(path))
    monkeypatch.setattr("orpo_lightning.models.content.place_on_machine", lambda: (1, 2))
    monkeypatch.setattr("orpo_lightning.models.content.from_all_ranks", lambda own: [None, own])
    with pytest.raises(DamagedFileError, match=r"b\.safetensors has been altered"):
        check(model)
    assert looked_at == [str(model / "b.safetensors")]


@pytest.mark.parametrize(("rank", "expected"), [(0, (0, 2)), (1, (0, 3)), (2, (1, 3)), (3, (1, 2)), (4, (2, 3))])
def test_processes_are_counted_by_machine(monkeypatch, rank, expected):
    machines = ["a", "b", "b", "a", "b"]
    monkeypatch.setattr(ranks, "from_all_ranks", lambda own: machines)
    monkeypatch.setattr(ranks, "place_among_ranks", lambda: (rank, 5))
    assert ranks.place_on_machine() == expected
