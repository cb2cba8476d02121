"""Whatever a conversation says: templates' special tokens are those of the template alone, and no text is changed."""

import pytest
from fuzzing import at_every_length, for_all
from hypothesis import strategies as st

from orpo_lightning.data.columns import RowError
from orpo_lightning.data.tokenization import EMPTY_PROMPT, IDENTICAL_TOKENS, IMITATES, LOST, REFUSED, tokenize_rows
from orpo_lightning.models.tiny import train_tiny_tokenizer
from orpo_lightning.models.tokenizer import (
    DEFAULT_TEMPLATE,
    HOLDER,
    render_prompt,
    response_frame,
    special_tokens,
)
from orpo_lightning.records import Message, TextRow

_EACH = "{% for message in messages %}<|{{ message.role }}|>\n"
_ANSWER = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
TEMPLATES = {
    "default": DEFAULT_TEMPLATE,
    "stripping": _EACH + "{{ message.content | trim }}<|end|>\n{% endfor %}" + _ANSWER,
    "stripping at the left": _EACH + "{{ message.content.lstrip() }}<|end|>\n{% endfor %}" + _ANSWER,
    "without generation prompt": _EACH + "{{ message.content }}<|end|>\n{% endfor %}",
    "refusing": _EACH
    + "{% if loop.index0 % 2 != (message.role == 'assistant') | int %}{{ raise_exception('Roles must alternate') }}"
    + "{% endif %}{{ message.content }}<|end|>\n{% endfor %}"
    + _ANSWER,
    "failing": _EACH + "{{ message.content[0] }}{{ message.content[1:] }}<|end|>\n{% endfor %}" + _ANSWER,
    "of two roles": "{% for message in messages %}{% if message.role in ('user', 'assistant') %}<|{{ message.role }}|>"
    + "{{ message.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "in brackets": "<|bos|>{% for message in messages %}"
    + "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    + "{% elif message.role == 'assistant' %} {{ message.content }} <|end|>"
    + "{% else %}<<SYS>>{{ message.content }}<</SYS>>"
    + "{% endif %}{% endfor %}",
    "changing": _EACH + "{{ message.content | upper }}<|end|>\n{% endfor %}" + _ANSWER,
    "repeating": _EACH + "{{ message.content }}<|end|>{{ message.content }}<|end|>\n{% endfor %}" + _ANSWER,
    "cutting": _EACH + "{{ message.content.split('<|end|>')[0] }}<|end|>\n{% endfor %}" + _ANSWER,
    "empty": "",
    "answer alone": _ANSWER,
}
PIECES = (
    *("<|end|>", "<|user|>", "<|assistant|>", "<|bos|>", "<|pad|>", "<|system|>", "<|en", "d|>", "|>", "<|", "<", "|"),
    *("<|assistant|>\n", "<|end|>\n<|user|>\n", "[INST]", "[/INST]", "{{ messages }}", "{% raw %}", "}}", "{#"),
    *(HOLDER, "\ue001", f"{HOLDER}0\ue001", f"{HOLDER}1\ue001", f"{HOLDER}7\ue001", f"{HOLDER}0", "0\ue001"),
    *("a", "b", "Hi", " ", "  ", "\n", "\t", "\r\n", "\x00", "\ufeff", "\u2028", "e\u0301", "🐈\u200d⬛", "שלום", "猫"),
    *("\u00a0", "\u3000", "\x1c", "\x85", "ß", "ŉ", "İ", "a" * 500),
)
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
messages = st.builds(Message, st.sampled_from(["user", "assistant", "system", "tool"]), texts)
alternating = st.lists(texts, min_size=1, max_size=4).map(
    lambda said: [Message(("user", "assistant")[i % 2], each) for i, each in enumerate(said)]
)
conversations = st.one_of(alternating, st.lists(messages, min_size=1, max_size=4)).map(tuple)
rows = st.builds(lambda prompt, a, b: TextRow.pair("a.jsonl:7", prompt, a, b), conversations, texts, texts)


@pytest.fixture(scope="module")
def tokenizers():
    """One of bytes for each template."""
    found = {}
    for name, template in TEMPLATES.items():
        found[name] = train_tiny_tokenizer(["Hi, name a colour."], 400)
        found[name].chat_template = template
    return found


def check_row(tokenizer, row):
    ((text, found),) = tokenize_rows(tokenizer, [row])
    assert text is row
    if isinstance(found, RowError):
        check_refusal(tokenizer, row, found)
        return
    special = set(special_tokens(tokenizer).values())
    rendered = render_prompt(tokenizer, row.prompt)
    assert tokenizer.decode(found.prompt) == rendered, "the prompt is what the template writes"
    of_template = render_prompt(tokenizer, [Message(each.role, "x") for each in row.prompt])
    wanted = [token for token in tokenizer(of_template, add_special_tokens=False)["input_ids"] if token in special]
    assert [token for token in found.prompt if token in special] == wanted, "text that imitates stays text"
    if not any(name in message.content for message in row.prompt for name in special_tokens(tokenizer)):
        inference = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert list(found.prompt) == inference, "as at inference"
    frame = response_frame(tokenizer)
    for response, source in zip(found.responses, row.responses, strict=True):
        assert response.ids[: len(frame.tokens)] == frame.tokens
        *said, end = response.ids[len(frame.tokens) :]
        assert end == frame.end
        assert not special & set(said), "the end comes once"
        assert tokenizer.decode(said) == frame.text + source.text


def check_refusal(tokenizer, row, error):
    assert error.row_id == row.row_id
    assert str(error).startswith(f"{row.row_id}: ")
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 2000
    if error.reason == IDENTICAL_TOKENS:
        assert row.chosen == row.rejected
    elif error.reason == EMPTY_PROMPT:
        assert not render_prompt(tokenizer, row.prompt)
    elif error.reason == IMITATES:
        said = "".join(message.content for message in row.prompt)
        assert any(name in said for name in special_tokens(tokenizer))
    else:
        assert error.reason in (REFUSED, LOST)


@at_every_length
def test_a_conversation_is_tokenized_as_the_template_writes_it_or_refused_by_name(tokenizers, examples):
    def check(name, row):
        check_row(tokenizers[name], row)

    for_all(examples, check, st.sampled_from([*TEMPLATES]), rows)
