"""Checkpoints: read as tensors and plain data alone, and put back on the model they came from."""

import json
import os

import pytest
import torch
from helpers import with_random_trained_weights

from orpo_lightning.models.adapters import LoraConfig, add_adapter
from orpo_lightning.models.checkpoint import describe_policy, load_policy, read_checkpoint
from orpo_lightning.models.identity import base_weights, check_settings, fingerprint, settings_of
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.tiny import tiny_model, train_tiny_tokenizer


class Data:
    tokenizer = "smollm2"
    tokenizer_revision = "v1"


def saved(path, net=None, policy=PolicyConfig("tiny"), data=None, trained_only=False, **changes):
    net = net or load_causal_lm(policy)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    weights = {k: v for k, v in net.state_dict().items() if k in trained or not trained_only}
    contents = {
        "policy": describe_policy(policy, net, data),
        "state_dict": {f"policy.net.{name}": value for name, value in weights.items()} | {"reference.x": torch.ones(1)},
        "objective": {"trained_by": [[0, "ORPO(lambda_=0.1)"]]},
        "global_step": 7,
        "base": fingerprint(base_weights(net)) if policy.lora.is_used else None,
    }
    torch.save(contents | changes, path)
    return path


def test_a_checkpoint_says_how_its_model_was_loaded(tmp_path):
    policy = PolicyConfig("tiny", dtype="float64", gradient_checkpointing=True)
    checkpoint = read_checkpoint(saved(tmp_path / "a.ckpt", policy=policy, data=Data()))
    assert checkpoint.policy == policy
    assert (checkpoint.tokenizer, checkpoint.tokenizer_revision) == ("smollm2", "v1")
    assert (checkpoint.objective, checkpoint.steps, checkpoint.version) == ("ORPO(lambda_=0.1)", 7, "0.1.0")


def test_without_one_of_the_data_the_tokenizer_is_the_policys(tmp_path):
    checkpoint = read_checkpoint(saved(tmp_path / "a.ckpt"))
    assert (checkpoint.tokenizer, checkpoint.tokenizer_revision) == ("tiny", None)


def test_local_models_are_named_from_the_root(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    net = load_causal_lm(PolicyConfig("tiny"))
    for name, expected in (("mine", str(tmp_path / "mine")), ("tiny", "tiny"), ("owner/name", "owner/name")):
        assert describe_policy(PolicyConfig(name), net, None)["config"]["name_or_path"] == expected


@pytest.mark.parametrize(("file", "run"), [("run/checkpoints/a.ckpt", "run"), ("elsewhere/a.ckpt", "elsewhere")])
def test_the_run_of_a_checkpoint(tmp_path, file, run):
    (tmp_path / file).parent.mkdir(parents=True)
    assert read_checkpoint(saved(tmp_path / file)).run == tmp_path / run


def test_what_a_checkpoint_says_of_trust_does_not_count(tmp_path):
    path = saved(tmp_path / "a.ckpt", policy=PolicyConfig("tiny", trust_remote_code=True))
    assert not read_checkpoint(path).policy.trust_remote_code
    assert read_checkpoint(path, trust_remote_code=True).policy.trust_remote_code


class Malicious:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    path = saved(tmp_path / "a.ckpt", extra=Malicious(tmp_path / "it ran"))
    with pytest.raises(ValueError, match="cannot be read as tensors and plain data alone"):
        read_checkpoint(path)
    assert not (tmp_path / "it ran").exists()


def test_half_a_checkpoint_is_named(tmp_path):
    path = saved(tmp_path / "a.ckpt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"a.ckpt is damaged: it is cut off or altered"):
        read_checkpoint(path)


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match=r"a\.ckpt lacks policy\.config.*; accepted: a checkpoint of a PreferenceModule"
    ):
        read_checkpoint(tmp_path / "a.ckpt")


def without(contents, name):
    """A copy without one key; the keys of a dictionary inside are separated by points."""
    first, _, rest = name.partition(".")
    if not rest:
        return {key: value for key, value in contents.items() if key != first}
    return contents | {first: without(contents[first], rest)}


@pytest.mark.parametrize(
    "name",
    [
        *("policy.config", "policy.config.name_or_path", "policy.config.lora", "policy.tokenizer", "policy.version"),
        *("policy.tokenizer_revision", "policy.settings", "policy.dtype", "objective.trained_by", "objective"),
        *("global_step", "base", "state_dict"),
    ],
)
def test_what_a_checkpoint_lacks_is_named(tmp_path, name):
    path = saved(tmp_path / "a.ckpt")
    torch.save(without(torch.load(path), name), path)
    with pytest.raises(ValueError, match=rf"a\.ckpt lacks {name}"):
        read_checkpoint(path)


@pytest.mark.parametrize("contents", [torch.ones(2), {"policy": torch.ones(1)}, {"policy": {"config": None}}])
def test_contents_of_another_kind_are_named(tmp_path, contents):
    torch.save(contents, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt lacks policy\.config\.name_or_path"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("path", ["nothing.ckpt", "."])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at '.*'; accepted: a checkpoint"):
        read_checkpoint(path)


def test_weights_come_back_in_the_dtype_in_which_they_were_trained(tmp_path):
    net = load_causal_lm(PolicyConfig("tiny")).bfloat16()
    loaded = load_policy(read_checkpoint(saved(tmp_path / "a.ckpt", net)))
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_base_model_that_is_gone_is_named(tmp_path):
    path = saved(tmp_path / "a.ckpt")
    contents = torch.load(path)
    contents["policy"]["config"]["name_or_path"] = "/gone/model"
    torch.save(contents, path)
    with pytest.raises(FileNotFoundError, match=r"a.ckpt: the model it was trained from is gone: .*/gone/model"):
        load_policy(read_checkpoint(path))


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(r=4)])
def test_a_base_model_that_has_moved_is_found_where_it_is_now(tmp_path, lora):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    train_tiny_tokenizer(["some text"], 300).save_pretrained(tmp_path / "base")
    policy = PolicyConfig(str(tmp_path / "base"), lora=lora)
    net = with_random_trained_weights(load_causal_lm(policy))
    path = saved(tmp_path / "a.ckpt", net, policy, trained_only=lora.is_used)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"is gone: .* Export it with --base-model, which says where that is now"
    ):
        load_policy(read_checkpoint(path))
    checkpoint = read_checkpoint(path, base_model=str(tmp_path / "moved"))
    assert checkpoint.tokenizer == str(tmp_path / "moved")
    assert all(
        torch.equal(value, net.state_dict()[name]) for name, value in load_policy(checkpoint).state_dict().items()
    )


@pytest.mark.parametrize("change", ["other shape", "missing", "unexpected"])
def test_a_base_model_that_is_not_what_it_was_is_named(tmp_path, change):
    path, name = saved(tmp_path / "a.ckpt"), "policy.net.model.norm.weight"
    contents = torch.load(path)
    if change == "other shape":
        contents["state_dict"][name] = torch.ones(3)
    elif change == "missing":
        del contents["state_dict"][name]
    else:
        contents["state_dict"]["policy.net.more"] = torch.ones(3)
    torch.save(contents, path)
    with pytest.raises(ValueError, match="'tiny', is not what it was; 1 of the saved weights do not fit"):
        load_policy(read_checkpoint(path))


WITH_ADAPTER = PolicyConfig("tiny", lora=LoraConfig(r=4))


def with_trained_adapter():
    return with_random_trained_weights(load_causal_lm(WITH_ADAPTER))


def test_an_adapter_alone_goes_back_on_its_base(tmp_path):
    trained = with_trained_adapter()
    path = saved(tmp_path / "a.ckpt", trained, WITH_ADAPTER, trained_only=True)
    assert all("lora_" in name for name in read_checkpoint(path).weights)
    loaded = load_policy(read_checkpoint(path))
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_an_adapter_without_all_that_was_trained_is_refused(tmp_path):
    path = saved(tmp_path / "a.ckpt", with_trained_adapter(), WITH_ADAPTER, trained_only=True)
    contents = torch.load(path)
    del contents["state_dict"][next(name for name in contents["state_dict"] if "lora_A" in name)]
    torch.save(contents, path)
    with pytest.raises(ValueError, match=r"1 of the saved weights do not fit, such as .*lora_A"):
        load_policy(read_checkpoint(path))


def test_an_adapter_of_other_frozen_weights_is_refused(tmp_path):
    path = saved(tmp_path / "a.ckpt", with_trained_adapter(), WITH_ADAPTER, trained_only=True, base="another")
    with pytest.raises(ValueError, match="holds an adapter of another base model"):
        load_policy(read_checkpoint(path))


def changed(path, **settings):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | settings))


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(r=4)])
def test_a_base_model_that_computes_otherwise_than_it_did_is_refused(tmp_path, lora):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    policy = PolicyConfig(str(tmp_path / "base"), lora=lora)
    path = saved(tmp_path / "a.ckpt", policy=policy, trained_only=lora.is_used)
    of_no_logits = {
        "transformers_version": "6.0.0",
        "eos_token_id": [2, 5],
        "id2label": {"0": "a"},
        "dtype": "bfloat16",
    }
    changed(tmp_path / "base" / "config.json", **of_no_logits)
    load_policy(read_checkpoint(path))
    changed(tmp_path / "base" / "config.json", rms_norm_eps=0.5)
    with pytest.raises(ValueError, match=r"a\.ckpt: the model was trained with rms_norm_eps = 1e-06 and now has 0\.5"):
        load_policy(read_checkpoint(path))


def test_an_adapter_whose_settings_have_changed_since_is_refused(tmp_path):
    with_trained_adapter().save_pretrained(tmp_path / "adapter")
    policy = PolicyConfig("tiny", lora=LoraConfig(adapter=str(tmp_path / "adapter")))
    path = saved(tmp_path / "a.ckpt", policy=policy, trained_only=True)
    load_policy(read_checkpoint(path))
    changed(tmp_path / "adapter" / "adapter_config.json", lora_alpha=320)
    with pytest.raises(ValueError, match=r"trained with adapter\.lora_alpha = 16\.0 and now has 320"):
        load_policy(read_checkpoint(path))


def test_an_adapter_that_has_moved_is_found_where_it_is_now(tmp_path):
    with_trained_adapter().save_pretrained(tmp_path / "adapter")
    policy = PolicyConfig("tiny", lora=LoraConfig(adapter=str(tmp_path / "adapter")))
    net = with_random_trained_weights(load_causal_lm(policy))
    path = saved(tmp_path / "a.ckpt", net, policy, trained_only=True)
    (tmp_path / "adapter").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"no adapter_config\.json is there"):
        load_policy(read_checkpoint(path))
    loaded = load_policy(read_checkpoint(path, adapter=str(tmp_path / "moved")))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_frozen_weights_come_back_as_they_were_rounded_in_training(tmp_path):
    trained = with_trained_adapter()
    base = fingerprint(base_weights(trained))  # of before the precision rounds them
    trained.bfloat16()
    path = saved(tmp_path / "a.ckpt", trained, WITH_ADAPTER, trained_only=True, base=base)
    loaded = load_policy(read_checkpoint(path))
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert loaded.dtype == torch.bfloat16


def test_settings_inside_others_are_compared_by_name():
    net = tiny_model("llama")
    net.config.inner = {"dtype": "float32", "scale": 2.0, "deeper": {"pad_token_id": 3, "theta": 1.0}}
    found = settings_of(net)
    assert {name for name in found if name.startswith("inner")} == {"inner.scale", "inner.deeper.theta"}
    with pytest.raises(ValueError, match=r"trained with inner\.scale = 2\.0 and now has 3\.0"):
        check_settings(found, found | {"inner.scale": 3.0})


@pytest.mark.parametrize("setting", ["use_rslora", "use_dora"])
def test_every_setting_that_an_adapter_computes_with_counts(setting):
    plain, other = (add_adapter(tiny_model("llama"), LoraConfig(r=4)) for _ in range(2))
    setattr(other.peft_config["default"], setting, True)
    with pytest.raises(ValueError, match=f"adapter.{setting} = False and now has True"):
        check_settings(settings_of(plain), settings_of(other))
