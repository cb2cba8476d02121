"""LoRA: what is put into a model, what of it is trained, and what is refused."""

import functools
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import peft
import pytest
import torch
from helpers import slow, slow_but
from huggingface_hub import constants, hf_hub_download
from peft.utils import save_and_load
from safetensors.torch import load_file, save_file

from orpo_lightning.models.adapters import LoraConfig, add_adapter, has_adapter
from orpo_lightning.models.identity import base_weights, fingerprint
from orpo_lightning.models.loading import (
    PolicyConfig,
    ReferenceConfig,
    load_causal_lm,
    load_without_weights,
    reference_policy,
)
from orpo_lightning.models.logp_model import LayoutWarning, LogpModel
from orpo_lightning.models.reference import FrozenReference
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

PACKED = sorted(set(SHAPES) - {"gemma2", "gemma3", "bloom"})


def batch():
    return pack(make_rows(4), StepInfo(weight=4.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0))


def logps(net, layout="auto"):
    return LogpModel(net, layout)(batch(), prompt_logps=True)


def disturb(net):
    """Give every trained weight a value of its own: B starts at 0, where an adapter does nothing."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return net


@pytest.fixture
def base(tmp_path):
    """A folder with a base model."""
    tiny_model("opt", torch.float64).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path):
    """A folder with a trained adapter for it, as peft saves it; its own dropout is not 0."""
    settings = peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.4, target_modules=["q_proj", "fc1"])
    net = disturb(peft.get_peft_model(load_causal_lm(PolicyConfig(base, dtype="float64")), settings))
    net.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": -1}, r"model.policy.lora.r = -1 is out of range; accepted: 1 or more, 0 = no adapter"),
        ({"alpha": 0.0}, r"model.policy.lora.alpha = 0.0 is out of range; accepted: more than 0"),
        ({"dropout": 1.0}, r"model.policy.lora.dropout = 1.0 is out of range; accepted: \[0, 1\)"),
        ({"r": 4, "target_modules": []}, r"target_modules = \[\] names no layer.*set model.policy.lora.r = 0"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**options)


def test_without_a_rank_there_is_no_adapter(base):
    net = load_causal_lm(PolicyConfig(base))
    assert not has_adapter(net)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_fresh_adapter_changes_nothing_at_first(base):
    plain = load_causal_lm(PolicyConfig(base, dtype="float64"))
    adapted = load_causal_lm(PolicyConfig(base, dtype="float64", lora=LoraConfig(r=4)))
    assert torch.equal(logps(plain).logps, logps(adapted).logps)
    assert not torch.equal(logps(plain).logps, logps(disturb(adapted)).logps)


def test_only_the_adapter_and_the_saved_modules_are_trained(base):
    net = load_causal_lm(PolicyConfig(base, lora=LoraConfig(r=4, modules_to_save=["final_layer_norm"])))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert {name.split(".")[-4] for name in trained if "lora_A" in name} >= {"q_proj", "fc1", "fc2"}
    assert any("modules_to_save" in name for name in trained)


SAVED = [[], ["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["self_attn"], ["layers.1"]]


@pytest.mark.parametrize("saved", SAVED, ids=str)
@pytest.mark.parametrize("shape", ["opt", "llama"])
def test_the_packed_layout_is_exact_with_modules_that_are_trained_in_full(shape, saved):
    net = disturb(add_adapter(tiny_model(shape, torch.float64), LoraConfig(r=4, modules_to_save=saved)))
    assert_packed_equals_padded(net)


def ways_to_an_adapter(base, tmp_path, saved, dtype):
    """Policies with a new adapter, with one to go on with, and with a new one on a base with another merged into it."""
    fresh = LoraConfig(r=4, modules_to_save=saved)
    disturb(load_causal_lm(PolicyConfig(base, lora=fresh))).save_pretrained(tmp_path / "first")
    first = str(tmp_path / "first")
    return {
        "new": PolicyConfig(base, dtype=dtype, lora=fresh),
        "going on": PolicyConfig(base, dtype=dtype, lora=LoraConfig(adapter=first)),
        "on a merged one": PolicyConfig(first, dtype=dtype, lora=fresh),
    }


@pytest.mark.parametrize("saved", [["lm_head", "embed_tokens"], slow(["self_attn", "final_layer_norm"])], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", slow("float16")])
def test_whatever_is_trained_is_kept_in_fp32_over_a_base_in_half_precision(base, tmp_path, dtype, saved):
    for way, config in ways_to_an_adapter(base, tmp_path, saved, dtype).items():
        net = load_causal_lm(config)
        with torch.device("meta"):
            weightless = load_without_weights(config)
        for each in (net, weightless):
            weights = {name: weight.dtype for name, weight in each.named_parameters() if weight.requires_grad}
            assert {"modules_to_save" in name for name in weights} == {True, False}, way
            assert set(weights.values()) == {torch.float32}, way
            frozen = {weight.dtype for weight in each.parameters() if not weight.requires_grad}
            assert frozen == {getattr(torch, dtype)} == {each.dtype}, way


def test_an_adapter_to_go_on_with_keeps_what_was_trained_in_fp32(base, tmp_path):
    config = ways_to_an_adapter(base, tmp_path, ["lm_head"], "bfloat16")["going on"]
    trained = {name: weight for name, weight in load_causal_lm(config).named_parameters() if weight.requires_grad}
    saved = load_file(tmp_path / "first" / "adapter_model.safetensors")
    (head,) = (weight for name, weight in saved.items() if "lm_head" in name)
    (found,) = (weight for name, weight in trained.items() if "lm_head" in name)
    assert torch.equal(found, head)
    assert not torch.equal(found, head.bfloat16().float())


@pytest.mark.parametrize("saved", slow_but([["lm_head"], ["self_attn"]], SAVED[1:]), ids=str)
@pytest.mark.parametrize("shape", ["llama", slow("opt")])
@pytest.mark.parametrize("autocast", [False, slow(True)], ids=["weights' own products", "autocast"])
def test_over_a_base_in_bf16_a_module_computes_as_before_until_it_is_trained(shape, saved, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), warnings.catch_warnings():
        warnings.simplefilter("error", LayoutWarning)
        before = logps(tiny_model(shape, torch.bfloat16)).logps
        net = add_adapter(tiny_model(shape, torch.bfloat16), LoraConfig(r=4, modules_to_save=saved))
        assert torch.equal(logps(net).logps, before)
        weights = [weight for name, weight in net.named_parameters() if "modules_to_save" in name]
        values, gradients = [], []
        for layout in ("packed", "padded"):
            values.append(logps(net, layout).logps)
            gradients.append(torch.cat([each.flatten() for each in torch.autograd.grad(values[-1].sum(), weights)]))
        for packed, padded in (values, gradients):
            assert (packed - padded).norm() < 0.02 * padded.norm()
            assert packed.dtype == torch.float32
        disturb(net)
        assert (logps(net).logps - before).norm() > 0.02 * before.norm()
        with net.disable_adapter():
            assert torch.equal(logps(net).logps, before)


@pytest.mark.parametrize("shape", PACKED)
def test_the_packed_layout_is_exact_with_an_adapter_in_every_architecture(shape):
    assert_packed_equals_padded(disturb(add_adapter(tiny_model(shape, torch.float64), LoraConfig(r=4))))


def assert_packed_equals_padded(net):
    packed, padded = LogpModel(net, "auto"), LogpModel(net, "padded")
    values, gradients = [], []
    for model in (padded, packed):
        net.zero_grad()
        table = model(batch(), prompt_logps=True)
        (table.logps.sum() + table.prompt_logps.sum()).backward()
        values.append(torch.cat([table.logps, table.prompt_logps]).detach())
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad]))
    assert packed._route == packed._packed
    # llama's norm rounds to fp32 in the middle of a double model
    tolerance = {"rtol": 2e-6, "atol": 2e-6 * gradients[0].abs().max().item()}
    torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], **tolerance)


def test_a_head_that_has_an_adapter_of_its_own_is_exact():
    net = tiny_model("llama", torch.float64)
    assert_packed_equals_padded(disturb(add_adapter(net, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))))


def test_gradient_checkpointing_gives_the_same_gradients(base):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = PolicyConfig(base, dtype="float64", lora=LoraConfig(r=4), gradient_checkpointing=checkpointing)
        net = disturb(load_causal_lm(config))
        logps(net).logps.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_the_model_that_trains_packed_also_generates(base):
    net = disturb(load_causal_lm(PolicyConfig(base, dtype="float64", lora=LoraConfig(r=4))))
    prompt = {"input_ids": torch.arange(3, 9)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    net.eval()
    before = net.generate(**prompt, max_new_tokens=8, do_sample=False)
    logps(net)
    assert torch.equal(net.generate(**prompt, max_new_tokens=8, do_sample=False), before)


@pytest.mark.parametrize("saved", [[], ["lm_head", "embed_tokens"]])
def test_the_fingerprint_of_the_base_is_that_of_the_model_without_an_adapter(base, saved):
    plain = load_causal_lm(PolicyConfig(base, dtype="float64"))
    adapted = load_causal_lm(PolicyConfig(base, dtype="float64", lora=LoraConfig(r=4, modules_to_save=saved)))
    assert fingerprint(base_weights(adapted)) == fingerprint(plain) == fingerprint(base_weights(plain))
    assert fingerprint(base_weights(disturb(adapted))) == fingerprint(plain)
    with torch.no_grad():
        next(p for p in adapted.parameters() if not p.requires_grad).add_(1e-3)
    assert fingerprint(base_weights(adapted)) != fingerprint(plain)


def test_training_goes_on_with_an_adapter_that_peft_saved(base, adapter):
    net = load_causal_lm(PolicyConfig(base, dtype="float64", lora=LoraConfig(adapter=adapter)))
    expected = peft.PeftModel.from_pretrained(load_causal_lm(PolicyConfig(base, dtype="float64")), adapter).eval()
    assert torch.equal(logps(net).logps, logps(expected).logps)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    # the adapter's own dropout would break the invariance unasked
    assert net.peft_config["default"].lora_dropout == 0.0
    assert torch.equal(logps(net).logps, logps(net).logps)
    noisy = load_causal_lm(PolicyConfig(base, dtype="float64", lora=LoraConfig(adapter=adapter, dropout=0.5)))
    assert not torch.equal(logps(noisy).logps, logps(noisy).logps)


def test_the_copy_of_a_policy_that_starts_from_an_adapter_has_that_adapter(base, adapter):
    config = PolicyConfig(base, dtype="float64", lora=LoraConfig(adapter=adapter, dropout=0.5))
    reference = FrozenReference(load_causal_lm(reference_policy(ReferenceConfig(), config))).net
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    expected = peft.PeftModel.from_pretrained(load_causal_lm(PolicyConfig(base, dtype="float64")), adapter).eval()
    assert torch.equal(logps(reference).logps, logps(expected).logps)
    # a fresh adapter, or another model: no adapter
    assert not has_adapter(
        load_causal_lm(reference_policy(ReferenceConfig(), PolicyConfig(base, lora=LoraConfig(r=4))))
    )
    assert not has_adapter(load_causal_lm(reference_policy(ReferenceConfig(base), config)))


def test_adapters_that_cannot_be_used_are_refused_by_name(base, adapter, tmp_path):
    def load(**options):
        load_causal_lm(PolicyConfig(base, dtype="float64", lora=LoraConfig(**options)))

    load(adapter=adapter, r=3)
    with pytest.raises(
        ValueError, match=r"lora.r = 4, but the adapter in .* has 3: set model.policy.lora.r to that, or"
    ):
        load(adapter=adapter, r=4)
    with pytest.raises(ValueError, match=r"lora.adapter = .*nowhere.*: no adapter_config.json is there; accepted"):
        load(adapter=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"target_modules = \['qq_proj'\]: .*qq_proj"):
        load(r=4, target_modules=["qq_proj"])
    with pytest.raises(ValueError, match=r"modules_to_save: OPTForCausalLM has no module named 'lm_haed'; it has.*lm_"):
        load(r=4, modules_to_save=["lm_haed"])
    other = tmp_path / "other"
    tiny_model("llama").save_pretrained(other)
    with pytest.raises(ValueError, match=r"lora.adapter = .* does not fit LlamaForCausalLM.*one side only"):
        load_causal_lm(PolicyConfig(str(other), lora=LoraConfig(adapter=adapter)))
    kind = peft.get_peft_model(tiny_model("opt"), peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    kind.save_pretrained(tmp_path / "ia3")
    with pytest.raises(ValueError, match=r"is of the kind .*IA3; accepted: LORA"):
        load(adapter=str(tmp_path / "ia3"))


def copied(adapter, tmp_path):
    """A copy of an adapter's folder, to be spoilt."""
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def ways(base, adapter):
    """Both ways to use an adapter, and what an error calls it there."""
    on = PolicyConfig(base, lora=LoraConfig(adapter=str(adapter)))
    return [
        (on, f"model.policy.lora.adapter = '{adapter}'"),
        (PolicyConfig(str(adapter)), f"the adapter in '{adapter}'"),
    ]


@pytest.mark.parametrize("contents", [b"", b"something else"])
def test_weights_of_an_adapter_that_are_not_whole_are_named(base, adapter, tmp_path, contents):
    file = copied(adapter, tmp_path) / "adapter_model.safetensors"
    file.write_bytes(contents)
    for config, name in ways(base, file.parent):
        with pytest.raises(
            ValueError, match=f"{re.escape(name)} cannot be read: {file} is damaged or not whole"
        ) as error:
            load_causal_lm(config)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("contents", [b"{broken", b"", b"[]"])
def test_settings_of_an_adapter_that_are_not_json_are_named(base, adapter, tmp_path, contents):
    file = copied(adapter, tmp_path) / "adapter_config.json"
    file.write_bytes(contents)
    for config, _ in ways(base, file.parent):
        with pytest.raises(ValueError, match=f"{file} is damaged or not whole"):
            load_causal_lm(config)


@pytest.mark.parametrize("kind", ["WHAT", "ADAPTION_PROMPT"])
def test_settings_of_no_lora_are_refused(base, adapter, tmp_path, kind):
    file = copied(adapter, tmp_path) / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(ValueError, match=f"lora.adapter = '{file.parent}'.*{kind}"):
        load_causal_lm(PolicyConfig(base, lora=LoraConfig(adapter=str(file.parent))))


class Malicious:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_a_pickle_that_would_run_code_is_the_adapters_and_does_not_run(base, adapter, tmp_path):
    folder = copied(adapter, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"weight": Malicious(tmp_path / "it ran")}, folder / "adapter_model.bin")
    for config, name in ways(base, folder):
        with pytest.raises(ValueError, match=f"the weights of {re.escape(name)} are a pickle file that cannot be read"):
            load_causal_lm(config)
    assert not (tmp_path / "it ran").exists()


def test_the_pickle_of_the_base_of_an_adapter_is_the_bases(base, adapter):
    Path(base, "model.safetensors").unlink()
    torch.save({"weight": Malicious("it ran")}, Path(base, "pytorch_model.bin"))
    with pytest.raises(ValueError, match=f"the weights of the model '{base}' are a pickle file"):
        load_causal_lm(PolicyConfig(adapter))


def test_a_folder_without_an_adapters_weights_says_so(base, adapter, tmp_path):
    folder = copied(adapter, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    for config, name in ways(base, folder):
        with pytest.raises(
            ValueError, match=f"{re.escape(name)}: the folder holds adapter_config.json, but no weights"
        ):
            load_causal_lm(config)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nodir/adapter", "HF_HUB_OFFLINE is set"), ("two words", "it is not a hub id"), ("nodir/an/adapter", "accepted")],
)
def test_an_adapter_that_is_nowhere_is_named_by_its_setting(base, name, reason):
    with pytest.raises(
        ValueError, match=f"model.policy.lora.adapter = '{name}': no adapter_config.json is there.*{reason}"
    ):
        load_causal_lm(PolicyConfig(base, lora=LoraConfig(adapter=name)))


def test_an_adapter_comes_from_the_hub(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("peft.config.hf_hub_download", functools.partial(hf_hub_download, cache_dir=tmp_path / "hub"))
    monkeypatch.setattr(
        save_and_load, "hf_hub_download", functools.partial(hf_hub_download, cache_dir=tmp_path / "hub")
    )
    repository = tmp_path / "hub" / "models--someone--some-adapter"
    snapshot = Path(shutil.copytree(adapter, repository / "snapshots" / ("0" * 40)))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    config = PolicyConfig(base, lora=LoraConfig(adapter="someone/some-adapter"))
    assert fingerprint(load_causal_lm(config)) == fingerprint(
        load_causal_lm(PolicyConfig(base, lora=LoraConfig(adapter=adapter)))
    )
    (snapshot / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lora.adapter = 'someone/some-adapter': its weights cannot be had"):
        load_causal_lm(config)


@pytest.mark.parametrize(
    ("shape", "linear"), [("opt", "fc1, fc2, k_proj, lm_head, out_proj, q_proj"), ("gpt2", "c_attn")]
)
def test_every_layer_that_is_listed_is_there(shape, linear):
    name = linear.split(", ")[0]
    with pytest.raises(
        ValueError, match=rf"target_modules = .*has no module named 'nope'; its linear layers are {linear}"
    ):
        add_adapter(tiny_model(shape), LoraConfig(r=4, target_modules=[name, "nope"]))
    add_adapter(tiny_model(shape), LoraConfig(r=4, target_modules=[name]))
    # an ending is whole names
    with pytest.raises(ValueError, match=rf"has no module named '{name[1:]}'"):
        add_adapter(tiny_model(shape), LoraConfig(r=4, target_modules=[name, name[1:]]))


def test_an_expression_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"target_modules = '\*q_proj': nothing to repeat"):
        add_adapter(tiny_model("opt"), LoraConfig(r=4, target_modules="*q_proj"))


@pytest.mark.parametrize(
    ("options", "own", "default"),
    [
        ({"r": 4}, "3", "0"),
        ({"alpha": 8.0}, "6", "16.0"),
        ({"target_modules": ["q_proj"]}, "['fc1', 'q_proj']", "'all-linear'"),
        ({"target_modules": "q_proj"}, "['fc1', 'q_proj']", "'all-linear'"),
        ({"modules_to_save": ["lm_head"]}, "[]", "[]"),
    ],
)
def test_what_is_set_beside_an_adapter_and_would_not_hold_is_refused(base, adapter, options, own, default):
    ((name, value),) = options.items()
    message = f"model.policy.lora.{name} = {value!r}, but the adapter in {adapter!r} has {own}: set .* or to {default},"
    pattern = re.escape(message).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=pattern):
        load_causal_lm(PolicyConfig(base, lora=LoraConfig(adapter=adapter, **options)))


def test_what_is_set_beside_an_adapter_and_is_its_own_or_the_default_holds(base, adapter):
    own = LoraConfig(adapter=adapter, r=3, alpha=6.0, target_modules=["fc1", "q_proj"])
    defaults = LoraConfig(adapter=adapter, r=0, alpha=16.0, target_modules="all-linear", modules_to_save=[])
    nets = [load_causal_lm(PolicyConfig(base, lora=lora)) for lora in (own, defaults)]
    assert fingerprint(nets[0]) == fingerprint(nets[1])


def test_modules_that_an_adapter_saved_may_be_set_beside_it(base, tmp_path):
    net = load_causal_lm(PolicyConfig(base, lora=LoraConfig(r=2, modules_to_save=["lm_head"])))
    net.save_pretrained(tmp_path / "saved")
    config = LoraConfig(adapter=str(tmp_path / "saved"), modules_to_save=["lm_head"])
    assert has_adapter(load_causal_lm(PolicyConfig(base, lora=config)))


def test_an_adapter_of_a_model_of_another_size_is_refused_in_a_sentence(base, adapter, tmp_path):
    small = tiny_model("opt").config
    small.hidden_size = small.word_embed_proj_dim = 16
    other = tmp_path / "other"
    type(tiny_model("opt"))(small).save_pretrained(other)
    with pytest.raises(
        ValueError, match=r"does not fit OPTForCausalLM: \d+ weights have another shape, such as"
    ) as error:
        load_causal_lm(PolicyConfig(str(other), lora=LoraConfig(adapter=adapter)))
    message = str(error.value)
    assert f"lora.adapter = '{adapter}'" in message
    assert f"It was trained on '{base}': set model.policy.name_or_path to that model" in message
    assert len(message.splitlines()) == 1


def test_an_adapter_whose_base_has_changed_is_refused(base, adapter):
    small = tiny_model("opt").config
    small.ffn_dim = 32
    type(tiny_model("opt"))(small).save_pretrained(base)
    for config, name in ways(base, adapter):
        with pytest.raises(ValueError, match=f"{re.escape(name)} does not fit OPT.*'{base}': which is not what it was"):
            load_causal_lm(config)


def test_an_adapter_of_another_architecture_is_refused_in_a_sentence(adapter, tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"does not fit GPT2LMHeadModel: Target modules .* again\. It was trained on"
    ) as e:
        load_causal_lm(PolicyConfig(str(tmp_path / "other"), lora=LoraConfig(adapter=adapter)))
    assert len(str(e.value).splitlines()) == 1


def test_saved_modules_whose_weights_are_missing_are_named(base, tmp_path):
    net = load_causal_lm(PolicyConfig(base, lora=LoraConfig(r=2, modules_to_save=["final_layer_norm"])))
    net.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "layer_norm" not in name}, file)
    with pytest.raises(ValueError, match=r"does not fit OPTForCausalLM: it lacks .*final_layer_norm"):
        load_causal_lm(PolicyConfig(base, lora=LoraConfig(adapter=str(tmp_path / "saved"))))


def test_that_a_base_model_has_another_name_here_is_no_news(adapter, base, tmp_path):
    moved = shutil.copytree(base, tmp_path / "moved")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_causal_lm(PolicyConfig(str(moved), lora=LoraConfig(adapter=adapter)))
    assert not [each for each in told if "base_model_name_or_path" in str(each.message)]


def test_without_peft_the_error_says_what_to_install(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    load_causal_lm(PolicyConfig(base))
    with pytest.raises(ModuleNotFoundError, match=r"LoRA needs the package peft.*pip install 'orpo-lightning\[lora\]'"):
        load_causal_lm(PolicyConfig(base, lora=LoraConfig(r=4)))
