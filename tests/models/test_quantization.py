"""Frozen weights in 4 bits below an adapter: they train, resume and are exported as the numbers that they stand for."""

import importlib.util
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import run, with_random_trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from orpo_lightning import DPO, LoraConfig, PreferenceModule, ReferenceConfig
from orpo_lightning.callbacks.export import ExportModel
from orpo_lightning.models import loading, weight_files
from orpo_lightning.models.building import refuse_four_bits
from orpo_lightning.models.checkpoint import export_checkpoint, load_policy, read_checkpoint
from orpo_lightning.models.export import write_adapter, write_model
from orpo_lightning.models.identity import check_base, fingerprint_of_base
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.models.quantization import dequantized, is_in_four_bits
from orpo_lightning.models.reference import reference_mode
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.models.work import ModelSize
from orpo_lightning.strategies import FSDP1Strategy

LORA = LoraConfig(r=4)
FOUR_BITS = PolicyConfig("tiny", load_in_4bit=True, lora=LORA)


def fit(folder=None, policy=FOUR_BITS, **options):
    saver = [] if folder is None else [ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)]
    settings = {"module_class": PreferenceModule, "module": {"policy": policy}, **options}
    return run(DPO(), callbacks=saver, enable_checkpointing=folder is not None, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return fit(folder), folder


def bytes_below_adapter(net):
    return sum(weight.nbytes for name, weight in net.named_parameters() if ".base_layer." in name)


def test_the_linear_layers_take_an_eighth_of_fp32_and_the_model_is_nearly_the_same():
    whole, small = load_causal_lm(PolicyConfig("tiny", lora=LORA)), load_causal_lm(FOUR_BITS)
    bytes_of_whole, bytes_of_small = (
        sum(weight.nbytes for name, weight in net.named_parameters() if ".base_layer." in name)
        for net in (whole, small)
    )
    assert bytes_of_whole == 8 * bytes_of_small > 0
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        wanted, found = (torch.log_softmax(net.eval()(ids).logits, -1) for net in (whole, small))
    assert 0 < (found - wanted).abs().max() < 0.2
    assert ModelSize.of(small) == ModelSize.of(whole)


def test_a_cpu_that_multiplies_in_bf16_leaves_the_numbers_as_they_were_read(monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    net = load_causal_lm(FOUR_BITS).eval()
    layers = [each for each in net.modules() if isinstance(each, torch.nn.Linear) and is_in_four_bits(each)]
    assert layers
    before = [dequantized(each, torch.float32).weight for each in layers]
    with torch.no_grad():
        net(torch.arange(3, 35)[None])
    for layer, weight in zip(layers, before, strict=True):
        assert torch.equal(dequantized(layer, torch.float32).weight, weight)


def test_the_policy_without_its_adapter_is_the_reference(trained):
    first, *others = (logged["train/loss"] for _, logged in trained[0].history)
    assert first == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)
    assert others[-1] != first


def test_a_checkpoint_holds_the_adapter_alone_and_the_run_goes_on_from_it(trained):
    straight, folder = trained
    names = torch.load(folder / "step=3.ckpt", weights_only=True)["state_dict"]
    assert names
    assert all(".lora_" in name for name in names)
    resumed = fit(ckpt_path=folder / "step=3.ckpt")
    assert resumed.history == straight.history[3:]
    assert torch.equal(resumed.weights, straight.weights)


def test_the_exported_model_computes_what_was_trained(trained, tmp_path):
    checkpoint = read_checkpoint(trained[1] / "step=6.ckpt")
    export_checkpoint(checkpoint, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert exported.config.to_dict().get("quantization_config") is None
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        wanted = trained[0].module.policy.net.eval()(ids).logits
        for net in (exported, load_policy(checkpoint)):
            torch.testing.assert_close(net.eval()(ids).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", [None, ["q_proj"]], ids=["every layer", "some layers"])
def test_what_is_in_memory_is_written_as_what_it_computes_and_nothing_is_read_again(targets, tmp_path, monkeypatch):
    lora = LoraConfig(r=4) if targets is None else LoraConfig(r=4, target_modules=targets)
    net = with_random_trained_weights(load_causal_lm(PolicyConfig("tiny", load_in_4bit=True, lora=lora)))
    plain = load_causal_lm(PolicyConfig("tiny"))
    before = {name: each.clone() for name, each in net.state_dict().items()}
    monkeypatch.setattr(loading, "_read_weights", lambda *_: pytest.fail("the model was read again"))
    write_model(net, load_tokenizer("tiny"), tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert exported.config.to_dict().get("quantization_config") is None
    assert exported.num_parameters() == plain.num_parameters()
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        torch.testing.assert_close(exported.eval()(ids).logits, net.eval()(ids).logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())


def test_a_fit_writes_its_model_without_a_checkpoint(tmp_path):
    found = run(
        DPO(),
        module_class=PreferenceModule,
        module={"policy": FOUR_BITS},
        data={"tokenizer": "tiny"},
        callbacks=[ExportModel()],
        default_root_dir=tmp_path,
    )
    ids = torch.arange(3, 35)[None]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        wanted = found.module.policy.net.eval()(ids).logits
        torch.testing.assert_close(exported.eval()(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_the_base_is_known_by_what_was_read_and_not_by_how_a_device_has_rounded_it(tmp_path):
    net = load_causal_lm(FOUR_BITS)
    known = fingerprint_of_base(FOUR_BITS, net)
    (weight, *_) = (each for name, each in net.named_parameters() if ".base_layer." in name)
    weight.data[0] ^= 1
    assert fingerprint_of_base(FOUR_BITS, net) == known
    tiny_model("llama", seed=1).save_pretrained(tmp_path)
    other = replace(FOUR_BITS, name_or_path=str(tmp_path))
    assert fingerprint_of_base(other, load_causal_lm(other)) != known
    of_another_dtype = replace(FOUR_BITS, dtype="bfloat16")
    assert fingerprint_of_base(of_another_dtype, load_causal_lm(of_another_dtype)) != known


def test_the_base_is_the_same_in_other_files_of_the_same_weights(tmp_path):
    shutil.copytree(resolve("tiny"), tmp_path / "copy")
    AutoModelForCausalLM.from_pretrained(resolve("tiny")).save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    one, other = (replace(FOUR_BITS, name_or_path=str(tmp_path / name)) for name in ("copy", "shards"))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    known = fingerprint_of_base(FOUR_BITS, load_causal_lm(FOUR_BITS))
    assert known == fingerprint_of_base(one, load_causal_lm(one)) == fingerprint_of_base(other, load_causal_lm(other))


def test_neither_the_model_nor_a_file_of_it_is_read_a_second_time(tmp_path, monkeypatch):
    shutil.copytree(resolve("tiny"), tmp_path / "model")
    module = PreferenceModule(DPO(), policy=replace(FOUR_BITS, name_or_path=str(tmp_path / "model")))
    loads, opened = [], []
    load, look = loading._read_weights, weight_files.safe_open
    monkeypatch.setattr(loading, "_read_weights", lambda *given: loads.append(given) or load(*given))
    monkeypatch.setattr(weight_files, "safe_open", lambda *given: opened.append(given) or look(*given))
    module.configure_model()
    assert module.reference.fingerprint
    read_base_again = PreferenceModule(DPO(), policy=module.policy_config)
    read_base_again.configure_model()
    assert read_base_again.reference.fingerprint == module.reference.fingerprint
    assert (len(loads), len(opened)) == (2, 1)


def test_a_run_does_not_go_on_with_another_base_and_is_told_what_counts(trained, tmp_path):
    tiny_model("llama", seed=1).save_pretrained(tmp_path)
    other = replace(FOUR_BITS, name_or_path=str(tmp_path))
    with pytest.raises(ValueError, match=r"another (base|reference).*fingerprint"):
        fit(policy=other, ckpt_path=trained[1] / "step=3.ckpt")
    with pytest.raises(
        ValueError,
        match=r"another base model.*dtype, model.policy.load_in_4bit and, of a base in 4 bits, the format of its files",
    ):
        check_base("a", "b")


@pytest.mark.parametrize("mode", ["copy", "cached"])
def test_a_reference_that_starts_from_an_adapter_is_known_likewise(trained, mode, tmp_path, monkeypatch):
    net = with_random_trained_weights(load_causal_lm(PolicyConfig("tiny", lora=LORA)))
    write_adapter(net, load_tokenizer("tiny"), tmp_path / "adapter", "tiny")
    policy = PolicyConfig("tiny", load_in_4bit=True, lora=LoraConfig(adapter=str(tmp_path / "adapter")))

    def known():
        module = PreferenceModule(DPO(), policy=policy, reference=ReferenceConfig(mode=mode))
        module.configure_model()
        return module.reference.fingerprint

    before = known()
    assert before != fingerprint_of_base(FOUR_BITS, trained[0].module.policy.net)
    read = loading._read_weights

    def rounded_by_another_device(*given):
        net = read(*given)
        net.model.layers[0].mlp.up_proj.weight.data[0] ^= 1
        return net

    monkeypatch.setattr(loading, "_read_weights", rounded_by_another_device)
    assert known() == before
    next(each for each in net.parameters() if each.requires_grad).data.mul_(2)
    write_adapter(net, load_tokenizer("tiny"), tmp_path / "adapter", "tiny")
    assert known() != before


def test_a_head_is_trained_in_full_in_fp32_beside_them_and_a_layer_in_4_bits_cannot_be():
    whole = replace(FOUR_BITS, dtype="bfloat16", lora=LoraConfig(r=4, modules_to_save=["lm_head"]))
    net = load_causal_lm(whole)
    assert {weight.dtype for weight in net.parameters() if weight.requires_grad} == {torch.float32}
    with pytest.raises(ValueError, match=r"modules_to_save: '.*mlp' is in 4 bits .*accepted: .* lm_head, embed_tokens"):
        load_causal_lm(replace(FOUR_BITS, lora=LoraConfig(r=4, modules_to_save=["mlp"])))


def test_without_an_adapter_it_is_refused():
    with pytest.raises(ValueError, match=r"load_in_4bit = true, but there is no adapter.*set model\.policy\.lora\.r"):
        PolicyConfig("tiny", load_in_4bit=True)


@pytest.mark.parametrize("mode", ["copy", "cached"])
def test_a_reference_with_other_weights_than_the_policy_starts_from_is_refused(mode):
    assert reference_mode(ReferenceConfig(), FOUR_BITS) == "adapter"
    with pytest.raises(ValueError, match=r"model\.reference\.mode = .*in 4 bits.*accepted: auto, adapter"):
        reference_mode(ReferenceConfig(mode=mode), FOUR_BITS)


def test_strategies_that_share_weights_out_refuse_it():
    with pytest.raises(ValueError, match=r"shares the weights out.*accepted: trainer\.strategy ddp, or one device"):
        refuse_four_bits(FOUR_BITS)
    with pytest.raises(ValueError, match="shares the weights out"):
        FSDP1Strategy().build_model(FOUR_BITS, None)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else present(name, *rest)
    )
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'orpo-lightning\[bitsandbytes\]'"):
        load_causal_lm(FOUR_BITS)


def test_a_folder_of_an_adapter_is_refused_as_the_model_below_another(trained, tmp_path):
    net = load_causal_lm(PolicyConfig("tiny", lora=LORA))
    write_adapter(net, load_tokenizer("tiny"), tmp_path, "tiny")
    with pytest.raises(ValueError, match=r"cannot be merged into weights in 4 bits: export it with --merge-adapter"):
        load_causal_lm(PolicyConfig(str(tmp_path), load_in_4bit=True, lora=LORA))
