"""Generation: the same answers for any batch size, in the order of the prompts, cut where they end."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from orpo_lightning.models.attention.packed import PACKED_ATTENTION
from orpo_lightning.models.generation import Sampling, generate
from orpo_lightning.models.tiny import tiny_model, train_tiny_tokenizer

PROMPTS = [tuple(range(3, 3 + length)) for length in (5, 1, 17, 9, 2, 30, 9, 12, 4, 21)]
ROWS = [f"file:{i + 1}" for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer(["some text"], 300)


def answers(net, tokenizer, prompts=PROMPTS, **sampling):
    rows = [f"file:{i + 1}" for i in range(len(prompts))]
    return generate(net, tokenizer, prompts, rows, Sampling(**{"max_new_tokens": 12, **sampling}))


@torch.no_grad()
def by_hand(net, prompt, count, ends):
    """The likeliest token again and again, one prompt alone, without a cache."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(net(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("shape", ["opt", "llama", "gpt2"])
def test_greedy_answers_do_not_depend_on_the_batch_size(tokenizer, shape):
    net = tiny_model(shape, torch.float64).eval()
    net.set_attn_implementation(PACKED_ATTENTION)  # as training leaves it
    never = [by_hand(net, prompt, 12, ends=()) for prompt in PROMPTS]
    in_some = next(token for token in range(97) if 0 < sum(token in ids for ids in never) < len(never))
    ends = (in_some, tokenizer.eos_token_id)
    net.generation_config.eos_token_id = list(ends)
    expected = [by_hand(net, prompt, 12, ends) for prompt in PROMPTS]
    assert {ids[-1] in ends for ids in expected} == {True, False}, "some must end by themselves and some not"
    for batch_size in (1, 3, 8):
        found = answers(net, tokenizer, batch_size=batch_size)
        assert [(one.tokens, one.finish_reason) for one in found] == [
            (len(ids), "eos" if ids[-1] in ends else "length") for ids in expected
        ]
        assert [one.text for one in found] == [
            tokenizer.decode(ids[:-1] if ids[-1] in ends else ids, skip_special_tokens=True) for ids in expected
        ]


class Scripted(torch.nn.Module):
    """Replaces the output embedding: whatever the model computes, it says a prompt's script."""

    def __init__(self, script, vocabulary):
        super().__init__()
        self.script, self.vocabulary, self.step = script, vocabulary, 0

    def forward(self, hidden):
        logits = torch.full((*hidden.shape[:-1], self.vocabulary), -10.0)
        for row, tokens in enumerate(self.script):
            logits[row, -1, tokens[min(self.step, len(tokens) - 1)]] = 10.0
        self.step += 1
        return logits


def scripted(script, **changes):
    net = tiny_model("llama")
    net.lm_head = Scripted(script, net.config.vocab_size)
    for name, value in changes.items():
        setattr(net.generation_config, name, value)
    return net


def test_the_end_is_counted_and_not_part_of_the_text(tokenizer):
    a, b, c, end = *tokenizer.encode("abc"), tokenizer.eos_token_id
    first, second, third = answers(
        scripted([[a, b, end], [c, c, c, c], [end]]), tokenizer, [(3, 4, 5), (3, 4), (3,)], max_new_tokens=4
    )
    assert (first.text, first.tokens, first.finish_reason) == ("ab", 3, "eos")
    assert (second.text, second.tokens, second.finish_reason) == ("cccc", 4, "length")
    assert (third.text, third.tokens, third.finish_reason) == ("", 1, "eos")


def test_an_end_that_pads_is_counted_once(tokenizer):
    a, end = *tokenizer.encode("a"), tokenizer.eos_token_id
    padded_by_its_end = train_tiny_tokenizer(["some text"], 300)
    padded_by_its_end.pad_token = padded_by_its_end.eos_token
    found = answers(scripted([[end], [a, a, end]]), padded_by_its_end, [(3, 4), (3,)], max_new_tokens=9)
    assert [(one.text, one.tokens, one.finish_reason) for one in found] == [("", 1, "eos"), ("aa", 3, "eos")]


def test_every_end_of_the_model_ends(tokenizer):
    a, b = tokenizer.encode("ab")
    (found,) = answers(scripted([[a, b, a]], eos_token_id=[b]), tokenizer, [(3,)], max_new_tokens=9)
    assert (found.text, found.tokens, found.finish_reason) == ("a", 2, "eos")


def test_the_models_own_sampling_and_penalties_do_not_count(tokenizer):
    net = tiny_model("llama", torch.float64)
    plain = answers(net, tokenizer)
    for name, value in {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "max_length": 3}.items():
        setattr(net.generation_config, name, value)
    assert answers(net, tokenizer) == plain


def test_a_seed_gives_the_same_samples_and_another_gives_others(tokenizer):
    net = tiny_model("llama")
    sampled = answers(net, tokenizer, temperature=1.0, seed=1)
    assert sampled == answers(net, tokenizer, temperature=1.0, seed=1)
    assert sampled != answers(net, tokenizer, temperature=1.0, seed=2)
    assert sampled != answers(net, tokenizer)


def test_the_smallest_share_of_probability_leaves_the_likeliest_token(tokenizer):
    net = tiny_model("llama", torch.float64)
    assert answers(net, tokenizer, temperature=1.0, top_p=1e-9, seed=3) == answers(net, tokenizer)


def test_the_model_and_the_random_state_are_left_as_they_were(tokenizer):
    net = tiny_model("llama")
    config = net.generation_config
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    answers(net, tokenizer, temperature=1.0)
    assert torch.equal(torch.rand(1), expected)
    assert net.training
    assert net.generation_config is config


def test_a_model_with_an_adapter_is_left_as_it_was_to_its_last_part(tokenizer):
    base = tiny_model("llama")
    config = base.generation_config
    net = get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM")).train()
    base.model.layers[0].eval()
    modes = {name: module.training for name, module in net.named_modules()}
    answers(net, tokenizer)
    assert base.generation_config is net.generation_config is config
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert len(set(modes.values())) == 2


def test_the_longest_prompts_go_first_and_progress_is_told(tokenizer, monkeypatch):
    net, widths, done = tiny_model("llama"), [], []
    plain = net.generate
    monkeypatch.setattr(
        net, "generate", lambda **inputs: (widths.append(inputs["input_ids"].shape), plain(**inputs))[1]
    )
    generate(net, tokenizer, PROMPTS, ROWS, Sampling(max_new_tokens=2, batch_size=4), done.append)
    assert widths == [(4, 30), (4, 9), (2, 2)]
    assert done == [4, 4, 2]


def test_a_prompt_longer_than_the_models_positions_is_named_before_anything_is_generated(tokenizer, monkeypatch):
    net = tiny_model("opt")
    monkeypatch.setattr(net, "generate", lambda **inputs: pytest.fail("it generated"))
    prompts = [(3, 4), (3,) * 250, (3,) * 256]
    with pytest.raises(ValueError, match=r"file:2: the prompt has 250 tokens.*12.*256 positions; accepted: 6 or less"):
        answers(net, tokenizer, prompts)
    with pytest.raises(ValueError, match=r"file:2: the prompt has 256 tokens.*shorten the prompt"):
        answers(net, tokenizer, [(3, 4), (3,) * 256], max_new_tokens=1)


@pytest.mark.parametrize("shape", ["opt", "gpt2", "llama"])
def test_the_last_position_of_the_model_can_be_used(tokenizer, shape):
    assert answers(tiny_model(shape), tokenizer, [(7,) * 250, (3,)], max_new_tokens=6)


def test_a_model_with_an_adapter_generates(tokenizer):
    base = tiny_model("llama", torch.float64)
    plain = answers(base, tokenizer)
    net = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert answers(net, tokenizer) == plain  # an adapter starts from 0
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    assert answers(net, tokenizer) != plain


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ({"max_new_tokens": 0}, "1 or more"),
        ({"batch_size": 0}, "1 or more"),
        ({"temperature": -0.1}, "0 or more"),
        ({"temperature": float("nan")}, "0 or more"),
        ({"top_p": 0.0}, "above 0, up to 1"),
        ({"top_p": 1.5}, "above 0, up to 1"),
        ({"seed": -1}, r"0 to 2\*\*63 - 1"),
        ({"seed": 2**63}, r"0 to 2\*\*63 - 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, accepted):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} = .* accepted: {accepted}"):
        Sampling(**setting)
