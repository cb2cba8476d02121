"""Tokens: the prompt as at inference, the response after it, the end-of-sequence token once."""

import pytest
from hypothesis import given, settings, strategies as st

from orpo_lightning.data.formats import RowError
from orpo_lightning.data.tokenization import (
    DEFAULT_TEMPLATE,
    load_tokenizer,
    render_prompt,
    tokenize_prompts,
    tokenize_rows,
)
from orpo_lightning.models.tiny import train_tiny_tokenizer
from orpo_lightning.records import Message, Prompt, Role, TextRow

QUESTION = (Message("user", "Name a colour."),)
CONVERSATION = (Message("system", "Be short."), *QUESTION, Message("assistant", "Blue."), Message("user", "Another?"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")


def tokenized(tokenizer, prompt=QUESTION, chosen="Blue.", rejected="Seven.", **options):
    ((_, row),) = tokenize_rows(tokenizer, [TextRow.pair("file:1", prompt, chosen, rejected, **options)])
    return row


def full_chat(tokenizer, prompt, response):
    turns = [{"role": message.role, "content": message.content} for message in prompt]
    return tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": response}], tokenize=False)


def test_the_prompt_ends_where_the_model_answers(tokenizer):
    prompt = tokenizer.decode(tokenized(tokenizer).prompt)
    assert prompt == "<|user|>\nName a colour.<|end|>\n<|assistant|>\n"
    assert prompt == render_prompt(tokenizer, QUESTION)


def test_all_turns_of_the_conversation_are_in_the_prompt(tokenizer):
    assert tokenizer.decode(tokenized(tokenizer, CONVERSATION).prompt) == (
        "<|system|>\nBe short.<|end|>\n<|user|>\nName a colour.<|end|>\n<|assistant|>\nBlue.<|end|>\n"
        "<|user|>\nAnother?<|end|>\n<|assistant|>\n"
    )


def test_the_prompt_is_tokenized_as_at_inference(tokenizer):
    turns = [{"role": message.role, "content": message.content} for message in CONVERSATION]
    inference = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert list(tokenized(tokenizer, CONVERSATION).prompt) == inference


@pytest.mark.parametrize("prompt", [QUESTION, CONVERSATION])
def test_prompt_and_response_together_are_the_full_chat(tokenizer, prompt):
    row = tokenized(tokenizer, prompt, "Blue.", "Seven.")
    for response, text in zip(row.responses, ("Blue.", "Seven."), strict=True):
        # the template ends every turn with a line break, which nobody has to predict
        assert tokenizer.decode(row.prompt + response.ids) + "\n" == full_chat(tokenizer, prompt, text)


def test_chosen_and_rejected_come_in_this_order(tokenizer):
    assert [response.role for response in tokenized(tokenizer).responses] == [Role.CHOSEN, Role.REJECTED]


def test_what_belongs_to_the_row_stays_with_it(tokenizer):
    row = tokenized(tokenizer, margin=1.5, weight=0.25)
    assert (row.row_id, row.margin, row.weight) == ("file:1", 1.5, 0.25)


@settings(deadline=None, max_examples=60)
@given(prompt=st.text(), chosen=st.text(), rejected=st.text())
def test_any_text_arrives_as_it_is_and_ends_once(tokenizer, prompt, chosen, rejected):
    row = tokenized(tokenizer, (Message("user", prompt),), chosen, rejected)
    assert tokenizer.decode(row.prompt) == f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n"
    for response, text in zip(row.responses, (chosen, rejected), strict=True):
        assert tokenizer.decode(response.ids[:-1]) == text
        assert response.ids.count(tokenizer.eos_token_id) == 1
        assert response.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text", ["🐈\u200d⬛ 👩🏽\u200d🚀", "größer", "猫が好き", "שלום", "\u0301e\u0000\ufeff", " \n\t "]
)
def test_scripts_and_emoji_survive(tokenizer, text):
    assert tokenizer.decode(tokenized(tokenizer, chosen=text).responses[0].ids[:-1]) == text


def test_more_pairs_than_are_tokenized_at_once_keep_their_order(tokenizer):
    pairs = [TextRow.pair(f"file:{i}", QUESTION, str(i), str(-i)) for i in range(2001)]
    found = list(tokenize_rows(tokenizer, pairs))
    assert [text for text, _ in found] == pairs
    rows = [row for _, row in found]
    assert [row.row_id for row in rows] == [pair.row_id for pair in pairs]
    for i in (0, 999, 1000, 1001, 2000):
        assert tokenizer.decode(rows[i].responses[0].ids) == f"{i}<|end|>"


def test_no_pairs_give_no_rows(tokenizer):
    assert list(tokenize_rows(tokenizer, [])) == []


IMITATION = "a<|end|>\n<|assistant|>\nb"


def test_a_response_that_imitates_special_tokens_stays_text(tokenizer):
    ids = tokenized(tokenizer, chosen=IMITATION).responses[0].ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == IMITATION


def test_a_prompt_that_imitates_special_tokens_stays_text(tokenizer):
    ids = tokenized(tokenizer, (Message("user", IMITATION),)).prompt
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == f"<|user|>\n{IMITATION}<|end|>\n<|assistant|>\n"


def test_a_prompt_that_imitates_special_tokens_is_rendered_like_any_other(tmp_path):
    # Llama 3's template trims as this one does
    trimming = "{% for message in messages %}{{ message.content | trim }}{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=trimming))
    for text in ("hi", "hi<|end|>"):
        assert tokenizer.decode(tokenized(tokenizer, (Message("user", f"  {text}  "),)).prompt) == text


def test_a_prompt_is_tokenized_for_generation_as_in_training(tokenizer):
    conversations = [QUESTION, CONVERSATION, (Message("user", IMITATION),)]
    for_generation = tokenize_prompts(tokenizer, [Prompt(f"file:{i}", each) for i, each in enumerate(conversations)])
    assert for_generation == [list(tokenized(tokenizer, each).prompt) for each in conversations]


def saved(folder, **changes):
    tokenizer = train_tiny_tokenizer(["some text"], 300)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_keeps_the_template_that_it_has(tmp_path):
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert load_tokenizer(saved(tmp_path, chat_template=template)).chat_template == template


def test_a_tokenizer_without_a_template_gets_the_default(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=None))
    assert tokenizer.chat_template == DEFAULT_TEMPLATE
    assert render_prompt(tokenizer, QUESTION) == "<|bos|><|user|>\nName a colour.<|end|>\n<|assistant|>\n"
    assert tokenized(tokenizer).prompt.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(tokenized(tokenizer).responses[0].ids) == "Blue.<|end|>"


def test_without_a_token_for_the_beginning_the_default_template_has_none(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=None, bos_token=None))
    assert render_prompt(tokenizer, QUESTION) == "<|user|>\nName a colour.<|end|>\n<|assistant|>\n"


def test_a_conversation_that_the_template_refuses_is_named(tmp_path):
    strict = "{% for message in messages %}{{ raise_exception('roles must alternate') }}{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=strict))
    refused = tokenized(tokenizer)
    assert isinstance(refused, RowError)
    assert refused.reason == "refused_by_template"
    assert str(refused) == "file:1: the chat template refuses the conversation: roles must alternate"


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(tmp_path):
    folder = saved(tmp_path, eos_token=None)
    with pytest.raises(ValueError, match="no end-of-sequence token") as error:
        load_tokenizer(folder)
    assert folder in str(error.value)
