"""An exported model is an ordinary Hugging Face folder that computes what was trained."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import slow, with_random_trained_weights
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from orpo_lightning.models.adapters import LoraConfig as Adapter, add_adapter
from orpo_lightning.models.attention.packed import PACKED_ATTENTION
from orpo_lightning.models.export import (
    end_tokens,
    generation_config,
    merged_state_dict,
    write_adapter,
    write_model,
)
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tiny import SHAPES, tiny_model, train_tiny_tokenizer

IDS = torch.tensor([[5, 17, 42, 8, 30, 61, 3], [9, 4, 77, 12, 3, 50, 2]])
ELSEWHERE = """
import sys, torch
from transformers import AutoModelForCausalLM
ids, folders = torch.load(sys.argv[1]), sys.argv[2:]
with torch.no_grad():
    logits = [AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits for folder in folders]
assert not any(name.startswith(("orpo_lightning", "peft")) for name in sys.modules)
torch.save(logits, sys.argv[1])
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer(["some text"], 300)


@torch.no_grad()
def logits(net):
    return copy.deepcopy(net).eval()(IDS).logits


def logits_elsewhere(tmp_path, *folders):
    """The logits of folders in a process that has plain transformers and nothing of this package."""
    exchange = tmp_path / "exchange.pt"
    torch.save(IDS, exchange)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, str(exchange), *map(str, folders)]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return torch.load(exchange)


def shape_with(shape, tied):
    """A tiny model of a shape whose embeddings are tied or not."""
    net = tiny_model(shape)
    if net.config.tie_word_embeddings is tied:
        return net
    config = copy.deepcopy(net.config)
    config.tie_word_embeddings = tied
    other = type(net)(config)
    with torch.no_grad():
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return other


def written(net, tokenizer, folder):
    folder.mkdir(parents=True)
    write_model(net, tokenizer, folder)
    return folder


@pytest.mark.slow
def test_every_shape_loads_elsewhere_with_equal_logits_tied_or_not(tmp_path, tokenizer):
    nets, folders = [], []
    for shape in SHAPES:
        for tied in (True, False):
            net = shape_with(shape, tied)
            # training has replaced its attention by ours where that is exact
            model = LogpModel(net, "auto")
            if model._why_not_packed() is None:
                net.set_attn_implementation(PACKED_ATTENTION)
            nets.append(net)
            folders.append(written(net, tokenizer, tmp_path / f"{shape}-{tied}"))
    assert sum(net.config._attn_implementation == PACKED_ATTENTION for net in nets) >= 20
    for net, folder, found in zip(nets, folders, logits_elsewhere(tmp_path, *folders), strict=True):
        assert torch.equal(found, logits(net)), folder.name
        assert "orpo" not in (folder / "config.json").read_text()


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_safetensors_and_tied_ones_are_there_once(tmp_path, tokenizer, tied):
    weights = load_file(written(shape_with("llama", tied), tokenizer, tmp_path / "a") / "model.safetensors")
    assert ("lm_head.weight" in weights) is not tied


def test_writing_changes_nothing_about_the_model(tmp_path, tokenizer):
    net = tiny_model("llama")
    net.set_attn_implementation(PACKED_ATTENTION)
    before, config = {k: v.clone() for k, v in net.state_dict().items()}, net.config.to_dict()
    written(net, tokenizer, tmp_path / "a")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.config.to_dict() == config
    assert net.config._attn_implementation == PACKED_ATTENTION
    assert net.training


def test_the_tokenizer_comes_along_with_its_chat_template(tmp_path, tokenizer):
    folder = written(tiny_model("llama"), tokenizer, tmp_path / "a")
    found = AutoTokenizer.from_pretrained(folder)
    assert found.chat_template == tokenizer.chat_template
    assert found.encode("some text") == tokenizer.encode("some text")


@pytest.mark.parametrize(("own", "expected"), [(None, [2]), (2, [2]), (7, [2, 7]), ([7, 2, 9], [2, 7, 9])])
def test_the_end_of_the_training_is_an_end_and_so_are_the_models_own(tokenizer, own, expected):
    net = tiny_model("llama")
    net.generation_config.eos_token_id = own
    assert end_tokens(net, tokenizer) == expected
    assert generation_config(net, tokenizer).eos_token_id == (expected if len(expected) > 1 else expected[0])


def test_a_generation_config_has_a_padding_token_in_any_case(tokenizer):
    net, without = tiny_model("llama"), train_tiny_tokenizer(["some text"], 300)
    without.pad_token = None
    net.generation_config.pad_token_id = None
    assert generation_config(net, tokenizer).pad_token_id == tokenizer.pad_token_id
    assert generation_config(net, without).pad_token_id == without.eos_token_id
    net.generation_config.pad_token_id = 5
    assert generation_config(net, without).pad_token_id == 5


def test_sampling_parameters_survive_where_the_model_samples(tmp_path, tokenizer):
    net = tiny_model("llama")
    net.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
    found = GenerationConfig.from_pretrained(written(net, tokenizer, tmp_path / "a"))
    assert (found.do_sample, found.temperature, found.top_p, found.eos_token_id) == (True, 0.6, 0.9, 2)


def test_sampling_parameters_of_a_greedy_model_do_not_keep_it_from_being_saved(tmp_path, tokenizer):
    # as published with Llama 2; transformers writes no such config
    net = tiny_model("llama")
    net.generation_config = GenerationConfig(temperature=0.6, top_p=0.9, top_k=30)
    found = GenerationConfig.from_pretrained(written(net, tokenizer, tmp_path / "a"))
    assert not found.do_sample
    assert found.temperature is None


def trained_adapter(shape, tied=True, **options):
    """A model with an adapter whose weights are not zero."""
    net = get_peft_model(shape_with(shape, tied), LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", **options))
    return with_random_trained_weights(net)


ADAPTERS = {
    "all linear layers": {"target_modules": "all-linear"},
    "rank-stabilised": {"target_modules": "all-linear", "use_rslora": True},
    "DoRA": {"target_modules": "all-linear", "use_dora": True},
    "with biases": {"target_modules": "all-linear", "bias": "lora_only"},
    "untied head saved whole": {"target_modules": "all-linear", "modules_to_save": ["lm_head"], "tied": False},
}


@pytest.mark.parametrize("shape", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_merged_adapter_is_what_peft_merges_and_the_trained_net_stays_as_it_was(shape, name):
    net = trained_adapter(shape, **ADAPTERS[name])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    merged = merged_state_dict(net.get_base_model())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    by_peft = net.merge_and_unload().state_dict()
    assert merged.keys() == by_peft.keys()
    assert all(torch.equal(merged[key], value) for key, value in by_peft.items())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_every_file_has_the_mode_of_a_new_file(tmp_path, tokenizer, umask, mode):
    net = trained_adapter("llama", target_modules="all-linear")
    (tmp_path / "adapter").mkdir()
    before = os.umask(umask)
    try:
        write_adapter(net, tokenizer, tmp_path / "adapter", "owner/base")
        written(net, tokenizer, tmp_path / "model")
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert {"model.safetensors", "adapter_model.safetensors"} <= files.keys()
    assert ".mode" not in files
    assert set(files.values()) == {mode}


@pytest.mark.slow
def test_a_merged_adapter_loads_elsewhere_without_peft(tmp_path, tokenizer):
    nets = [trained_adapter(shape, target_modules="all-linear") for shape in ("llama", "opt", "gpt2")]
    folders = [written(net, tokenizer, tmp_path / str(i)) for i, net in enumerate(nets)]
    for net, folder, found in zip(nets, folders, logits_elsewhere(tmp_path, *folders), strict=True):
        assert not (folder / "adapter_config.json").exists()
        torch.testing.assert_close(found, logits(net), rtol=1e-4, atol=1e-4)
        assert (found - logits(net.get_base_model())).abs().max() < 1e-3
        with net.disable_adapter():
            assert (found - logits(net)).abs().max() > 0.1, "the adapter did nothing"


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_embeddings_that_an_adapter_pulls_apart_are_written_apart(tmp_path, tokenizer, options):
    net = trained_adapter("llama", tied=True, **options)
    folder = written(net, tokenizer, tmp_path / "a")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    found = logits(AutoModelForCausalLM.from_pretrained(folder))
    torch.testing.assert_close(found, logits(net), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("saved", ["lm_head", slow("embed_tokens"), slow("self_attn")])
def test_what_was_trained_in_fp32_over_a_base_in_bf16_is_exported_in_bf16_and_computes_the_same(
    tmp_path, tokenizer, saved
):
    from peft import PeftModel

    base = shape_with("llama", False).bfloat16()
    net = with_random_trained_weights(add_adapter(copy.deepcopy(base), Adapter(r=4, modules_to_save=[saved])))
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    model = AutoModelForCausalLM.from_pretrained(written(net, tokenizer, tmp_path / "model"))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    (tmp_path / "adapter").mkdir()
    write_adapter(net, tokenizer, tmp_path / "adapter", "owner/base")
    by_peft = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(by_peft), logits(net), rtol=0, atol=0)
    # merging rounds the low-rank product to bf16
    assert (logits(model) - logits(net)).norm() < 0.05 * logits(net).norm()


def test_an_adapter_folder_holds_the_adapter_alone(tmp_path, tokenizer):
    from peft import PeftModel

    net = trained_adapter("llama", tied=False, target_modules="all-linear")
    (tmp_path / "a").mkdir()
    write_adapter(net, tokenizer, tmp_path / "a", "owner/base", "v2")
    assert not (tmp_path / "a" / "model.safetensors").exists()
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/base", "v2")
    base = tiny_model("llama")
    found = PeftModel.from_pretrained(base, tmp_path / "a")
    assert torch.equal(logits(found), logits(net))
