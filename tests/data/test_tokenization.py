"""Tokens: the prompt as at inference, the response after it, the end-of-sequence token once."""

from datetime import datetime

import pytest
from hypothesis import assume, given, settings, strategies as st

from orpo_lightning.data.columns import RowError
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.data.tokenization import tokenize_prompts, tokenize_rows
from orpo_lightning.models.tiny import train_tiny_tokenizer
from orpo_lightning.models.tokenizer import (
    DEFAULT_TEMPLATE,
    end_of_turn,
    load_tokenizer,
    render_prompt,
    special_pattern,
)
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
    assume(chosen != rejected)
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
    pairs = [TextRow.pair(f"file:{i}", QUESTION, str(i), f"not {i}") for i in range(2001)]
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


@pytest.mark.parametrize("fails", ["{{ 1 + m.content }}", "{{ m.content.nothing() }}", "{{ m.content % 3 }}"])
def test_a_template_that_fails_on_a_turn_is_answered_like_one_that_refuses_it(tmp_path, fails):
    template = "{% for m in messages %}{% if m.role == 'tool' %}FAILS{% endif %}{{ m.content }}{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=template.replace("FAILS", fails)))
    assert not isinstance(tokenized(tokenizer), RowError)
    refused = tokenized(tokenizer, (*QUESTION, Message("tool", "SUNNY")))
    assert isinstance(refused, RowError)
    assert refused.reason == "refused_by_template"


def test_a_template_that_fails_on_place_holders_alone_loses_no_row(tmp_path):
    template = (
        "{% for m in messages %}{% if not m.content[0].isascii() %}{{ raise_exception('ASCII only') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=template))
    assert tokenizer.decode(tokenized(tokenizer).prompt) == "Name a colour."
    imitates = tokenized(tokenizer, (Message("user", IMITATION),))
    assert isinstance(imitates, RowError)
    assert imitates.reason == "imitates_special_token"


def test_a_prompt_without_tokens_is_a_row_that_is_dropped(tmp_path):
    trimming = "{% for message in messages %}{{ message.content | trim }}{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=trimming))
    refused = tokenized(tokenizer, (Message("user", " "),))
    assert isinstance(refused, RowError)
    assert refused.reason == "empty_prompt"
    with pytest.raises(ValueError, match="file:1: the prompt has no tokens"):
        tokenize_prompts(tokenizer, [Prompt("file:1", (Message("user", " "),))])


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(tmp_path):
    folder = saved(tmp_path, eos_token=None)
    with pytest.raises(ValueError, match="no end-of-sequence token") as error:
        load_tokenizer(folder)
    assert folder in str(error.value)


def sentencepiece_like(folder, prepend):
    """A tokenizer as SentencePiece makes them: spaces as ▁, one put before a text, bytes where it has no piece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    model = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    model.normalizer = normalizers.Sequence([])
    texts = ["Name a colour.", "Blue. Seven. Be short. Another?", "user assistant system"] * 3
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    model.train_from_iterator(texts, trainer)
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("prepend", ["always", "first", "never"])
def test_a_tokenizer_that_puts_a_space_before_a_text_keeps_prompt_and_response_apart(tmp_path, prepend):
    tokenizer = sentencepiece_like(tmp_path, prepend)
    turns = [{"role": message.role, "content": message.content} for message in QUESTION]
    inference = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    for text in ("Blue.", " Blue.", "größer 猫 🐈", "\n"):
        row = tokenized(tokenizer, chosen=text)
        assert list(row.prompt) == inference
        assert row.prompt.count(tokenizer.bos_token_id) == 1
        ids = row.responses[0].ids
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids[:-1]) == text


def unigram(folder):
    """SentencePiece's other model, here without bytes for what it has no piece for: unknown text is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    model = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("🐈", ["▁", "<unk>"]), ("猫yes", ["▁", "<unk>", "y", "e", "s"]), ("yes", ["▁", "y", "e", "s"])],
)
def test_what_a_tokenizer_has_no_piece_for_is_not_cut_off(tmp_path, text, pieces):
    tokenizer = unigram(tmp_path)
    row = tokenized(tokenizer, (Message("user", "why"),), chosen=text, rejected="no")
    assert tokenizer.convert_ids_to_tokens(list(row.responses[0].ids)) == [*pieces, "</s>"]


def test_rows_with_text_that_the_tokenizer_does_not_know_are_counted(tmp_path, write_rows):
    rows = [{"prompt": "why", "chosen": "yes", "rejected": text} for text in ("no", "猫", "猫 🐈", "so")]
    path = write_rows(tmp_path / "a.jsonl", *rows, {"prompt": "🐈", "chosen": "yes", "rejected": "no"})
    _, report = Preparation(unigram(tmp_path / "tokenizer")).prepare(SourceConfig(path), "train")
    assert (report.kept, report.unknown) == (5, 3)
    _, report = Preparation(load_tokenizer("tiny")).prepare(SourceConfig(path), "train")
    assert (report.kept, report.unknown) == (5, 0)
    # as GPT-2 has it: with bytes nothing is unknown, and the token of it is the end
    of_bytes = load_tokenizer(saved(tmp_path / "bytes", unk_token="<|end|>"))
    _, report = Preparation(of_bytes).prepare(SourceConfig(path), "train")
    assert (report.kept, report.unknown) == (5, 0)


def test_of_special_tokens_that_begin_alike_the_longest_is_found(tmp_path):
    tokenizer = train_tiny_tokenizer(["some text"], 300)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|a", "<|a|>"]})
    assert special_pattern(tokenizer).findall("x<|a|>y<|az") == ["<|a|>", "<|a"]


@pytest.mark.parametrize("prepend", ["always", "first", "never"])
@pytest.mark.parametrize("turn", ["[INST] {} [/INST]", "{}### assistant:", "{}"])
def test_a_prompt_that_imitates_special_tokens_has_no_space_that_it_had_not(tmp_path, prepend, turn):
    tokenizer = sentencepiece_like(tmp_path, prepend)
    tokenizer.chat_template = "{% for m in messages %}TURN{% endfor %}".replace("TURN", turn.format("{{ m.content }}"))
    plain, imitating = (tokenized(tokenizer, (Message("user", text),)).prompt for text in ("ab", "a</s>b"))
    # the same tokens around the text as if nothing were imitated
    assert tokenizer.decode(imitating) == tokenizer.decode(plain).replace("ab", "a</s>b")
    assert tokenizer.eos_token_id not in imitating


@pytest.mark.parametrize("prepend", ["always", "first", "never"])
def test_a_sentencepiece_prompt_that_imitates_special_tokens_stays_text(tmp_path, prepend):
    tokenizer = sentencepiece_like(tmp_path, prepend)
    row = tokenized(tokenizer, (Message("user", "a</s>b<s>"),), chosen="c</s>d")
    assert row.prompt.count(tokenizer.eos_token_id) == 0
    assert row.prompt.count(tokenizer.bos_token_id) == 1
    assert "a</s>b<s>" in tokenizer.decode(row.prompt)
    assert row.responses[0].ids.count(tokenizer.eos_token_id) == 1


def test_a_padding_token_that_is_the_end_is_no_less_of_an_end(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, pad_token="<|end|>"))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert all(response.ids[-1] == tokenizer.eos_token_id for response in tokenized(tokenizer).responses)


def test_a_tokenizer_that_adds_a_beginning_by_itself_does_not_add_a_second_one(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = train_tiny_tokenizer(["some text"], 300)
    bos = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    tokenizer.chat_template = None  # the default begins with the token as well
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    row = tokenized(tokenizer)
    assert row.prompt.count(tokenizer.bos_token_id) == 1 == row.prompt[:1].count(tokenizer.bos_token_id)
    assert all(tokenizer.bos_token_id not in response.ids for response in row.responses)


TURNS = "{% for m in messages %}<|user|>{{ m.content }}END{% endfor %}"


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TURNS.replace("END", "<|system|>\n"), "<|system|>"),  # a turn ends otherwise than a text (Gemma, Phi-3)
        (TURNS.replace("END", " <|end|>"), "<|end|>"),
        (TURNS.replace("END", "<|end|>\n<|system|>"), "<|end|>"),
        (TURNS.replace("END", "\nand on"), "<|end|>"),  # nothing ends a turn
        (TURNS.replace("END", ""), "<|end|>"),
        ("{{ raise_exception('no assistant here') }}", "<|end|>"),
    ],
)
def test_a_response_ends_as_turns_end_in_the_template(tmp_path, template, end):
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=template))
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == end
    row = tokenized(tokenizer)
    if not isinstance(row, RowError):
        for response in row.responses:
            assert tokenizer.convert_ids_to_tokens(response.ids[-1]) == end
            assert response.ids.count(response.ids[-1]) == 1


def test_a_conversation_of_many_turns_round_trips_in_any_script(tokenizer):
    prompt = (
        Message("system", "सं क्षे प"),
        Message("user", "猫は"),
        Message("assistant", "🐈\u200d⬛"),
        Message("user", "e\u0301?"),
    )
    text = tokenizer.decode(tokenized(tokenizer, prompt).prompt)
    for message in prompt:
        assert f"<|{message.role}|>\n{message.content}<|end|>\n" in text


def test_what_the_template_puts_before_a_response_is_a_part_of_it(tmp_path):
    # as Llama 2 does
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = sentencepiece_like(tmp_path, "always")
    tokenizer.chat_template = template
    row = tokenized(tokenizer)
    assert tokenizer.decode(row.responses[0].ids) == " Blue.</s>"
    assert tokenizer.decode(row.prompt + row.responses[0].ids).endswith("[/INST] Blue.</s>")


def test_special_tokens_that_the_template_puts_before_a_response_are_tokens(tmp_path):
    # a template that knows no generation prompt: the model has to begin the turn
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=template))
    row = tokenized(tokenizer)
    turns = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    assert list(row.prompt + row.responses[0].ids) == whole[:-1]  # without the line break after the end


def test_responses_that_differ_as_text_but_not_in_tokens_are_dropped(tmp_path):
    tokenizer = train_tiny_tokenizer(["some text"], 300)
    from tokenizers.normalizers import Lowercase

    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.save_pretrained(tmp_path)
    refused = tokenized(load_tokenizer(str(tmp_path)), chosen="Blue", rejected="blue")
    assert isinstance(refused, RowError)
    assert refused.reason == "identical_tokens"


def test_a_turn_that_the_template_leaves_out_is_not_lost_in_silence(tmp_path):
    template = (
        "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=template))
    assert not isinstance(tokenized(tokenizer), RowError)
    refused = tokenized(tokenizer, (*QUESTION, Message("assistant", "Wait."), Message("tool", "SUNNY")))
    assert isinstance(refused, RowError)
    assert refused.reason == "lost_by_template"
    assert "a turn of the role 'tool'" in str(refused)


def test_a_template_that_writes_the_date_gives_the_same_tokens_every_day(tmp_path):
    template = (
        "\n  {% set day = '%-d %B' %}{{ strftime_now('%d %b %Y %H:%M:%S %f') }} {{ strftime_now(day) }}\n"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    tokenizer = load_tokenizer(saved(tmp_path, chat_template=template))
    assert render_prompt(tokenizer, QUESTION) == "\n01 Jan 2025 00:00:00 000000 1 January\nName a colour."


@pytest.mark.parametrize("directives", ["%F %T %D %e %j %V %u", "%-d/%-m/%y", "%c | %x | %X", "100%%"])
@pytest.mark.parametrize("named", [False, True])
def test_every_way_to_write_the_date_is_that_of_python(directives, named):
    tokenizer = train_tiny_tokenizer(["some text"], 300)
    template = f"{{{{ strftime_now('{directives}') }}}}"
    tokenizer.chat_template = {"default": template, "other": ""} if named else template
    assert render_prompt(tokenizer, QUESTION) == datetime(2025, 1, 1).strftime(directives)
