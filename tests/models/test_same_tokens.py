"""A reference of its own reads the tokens of the policy, or is refused."""

import pytest
from transformers import AutoModelForCausalLM

from orpo_lightning import DPO, LoraConfig, PolicyConfig, PreferenceModule, ReferenceConfig
from orpo_lightning.models import loading
from orpo_lightning.models.loading import load_causal_lm, reference_policy
from orpo_lightning.models.same_tokens import check_same_tokens
from orpo_lightning.models.tiny import tiny_model, train_tiny_tokenizer


def saved(folder, *, tokens=1024, padded=0, sample="some text", **special):
    """A model of some vocabulary, whose embedding may be larger, with its tokenizer."""
    tokenizer = train_tiny_tokenizer([sample], tokens)
    if special:
        tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(folder)
    with_vocabulary(folder, len(tokenizer) + padded)
    return str(folder)


def with_vocabulary(folder, size):
    config = tiny_model("llama").config
    config.vocab_size = size
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def test_a_reference_that_shares_the_tokenizer_is_accepted_whatever_its_embedding_is_padded_to(tmp_path):
    policy = PolicyConfig(saved(tmp_path / "policy"))
    padded = saved(tmp_path / "padded", padded=64)
    another_pad = saved(tmp_path / "another pad", pad_token="<|another|>")
    for name in (None, policy.name_or_path, padded, another_pad):
        check_same_tokens(ReferenceConfig(name), policy)
    assert load_causal_lm(reference_policy(ReferenceConfig(padded), policy)).config.vocab_size > 64


def test_a_reference_of_other_tokens_is_refused(tmp_path):
    policy = PolicyConfig(saved(tmp_path / "policy"))
    more = saved(tmp_path / "more", extra_special_tokens=["<|more|>"])
    others = saved(tmp_path / "others", sample="zyx " * 9)
    for name, token in ((more, "<|more|>"), (others, "")):
        names = f"model.reference.name_or_path = '{name}' and model.policy.name_or_path = '{policy.name_or_path}'"
        with pytest.raises(ValueError, match=f"{names} do not share a tokenizer .*tokens differ, such as") as error:
            check_same_tokens(ReferenceConfig(name), policy)
        assert token in str(error.value)


@pytest.mark.parametrize("mode", ["copy", "cached"])
def test_a_run_against_a_reference_of_other_tokens_is_refused(tmp_path, mode):
    module = PreferenceModule(DPO(), PolicyConfig("tiny"), ReferenceConfig(saved(tmp_path / "other"), mode=mode))
    with pytest.raises(ValueError, match="do not share a tokenizer"):
        module.configure_model()


@pytest.mark.parametrize("size", [500, 2000])
def test_without_a_tokenizer_the_vocabularies_have_one_size(tmp_path, size):
    policy, reference = with_vocabulary(tmp_path / "policy", 1024), with_vocabulary(tmp_path / "reference", size)
    with pytest.raises(ValueError, match=f"do not share a tokenizer .their vocabularies have {size} and 1024 tokens"):
        check_same_tokens(ReferenceConfig(reference), PolicyConfig(policy))
    with pytest.raises(ValueError, match=f"{size} and 1024 tokens"):
        check_same_tokens(ReferenceConfig(reference), PolicyConfig("tiny"))
    check_same_tokens(ReferenceConfig(with_vocabulary(tmp_path / "same", 1024)), PolicyConfig(policy))


def test_the_vocabulary_of_an_adapter_is_its_bases(tmp_path):
    base = with_vocabulary(tmp_path / "base", 500)
    load_causal_lm(PolicyConfig(base, lora=LoraConfig(r=2))).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="their vocabularies have 500 and 1024 tokens"):
        check_same_tokens(ReferenceConfig(str(tmp_path / "adapter")), PolicyConfig("tiny"))


def test_a_reference_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check_same_tokens(ReferenceConfig(str(tmp_path / "nowhere")), PolicyConfig("tiny"))


def test_no_weights_are_read_to_compare_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_read_weights", lambda *args: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="do not share"):
        check_same_tokens(ReferenceConfig(saved(tmp_path / "other")), PolicyConfig("tiny"))
