"""Formats: how rows are recognised and read, and what is said of those that cannot be."""

import pytest
from hypothesis import given, settings, strategies as st

from orpo_lightning.data.columns import RowError, rename_columns
from orpo_lightning.data.formats import (
    FORMATS,
    find_format,
    parse_hh_rlhf,
    parse_messages,
    parse_sharegpt,
    parse_text,
    parse_unpaired,
)
from orpo_lightning.records import Message, Role, TextRow

ASK = {"role": "user", "content": "Hi"}


def answer(text):
    return {"role": "assistant", "content": text}


def hh(*turns):
    """Raw HH-RLHF text; the human begins."""
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {turn}" for i, turn in enumerate(turns))


TEXT = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
MESSAGES = {"chosen": [ASK, answer("Hello!")], "rejected": [ASK, answer("What?")]}
HH = {"chosen": hh("Hi", "Hello!"), "rejected": hh("Hi", "What?")}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Hi"}],
    "chosen": {"from": "gpt", "value": "Hello!"},
    "rejected": {"from": "gpt", "value": "What?"},
}
UNPAIRED = {"messages": [ASK, answer("Hello!")], "label": True}
READERS = {
    "text": (parse_text, TEXT),
    "messages": (parse_messages, MESSAGES),
    "hh_rlhf": (parse_hh_rlhf, HH),
    "sharegpt": (parse_sharegpt, SHAREGPT),
}


@pytest.mark.parametrize(("parse", "row"), READERS.values(), ids=READERS)
def test_the_same_pair_is_read_from_every_format(parse, row):
    assert parse(row, "file:3") == TextRow.pair("file:3", (Message("user", "Hi"),), "Hello!", "What?")


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, (_, row) in READERS.items()])
def test_a_format_is_recognised_by_its_row(name, row):
    assert find_format([row], "file").name == name


def test_further_columns_do_not_hide_a_format():
    # UltraFeedback-binarized has a text column `prompt` as well
    assert find_format([{"prompt": "Hi", "prompt_id": "x", "messages": [], **MESSAGES}], "file").name == "messages"
    assert find_format([{"prompt": "Hi", **HH}], "file").name == "hh_rlhf"
    assert find_format([{"kind": "greeting", **TEXT}], "file").name == "text"


def test_text_that_only_mentions_human_is_not_raw_hh_rlhf():
    row = {"prompt": "Hi", "chosen": "Human: is a word\n\nHuman: is one too", "rejected": "no"}
    assert find_format([row], "file").name == "text"


def test_one_side_in_raw_hh_rlhf_is_not_enough():
    assert find_format([{**TEXT, "chosen": HH["chosen"]}], "file").name == "text"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hi", "answer": "Hello!"},
        {"question": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"question": "Hi", "chosen": ["Hello!"], "rejected": ["What?"]},
        {"question": "Hi", "chosen": [{"from": "gpt", "value": "Hello!"}], "rejected": []},
        {"prompt": "Hi", "completion": "Hello!"},  # without a label
    ],
)
def test_a_row_of_no_known_format_is_refused_with_its_columns_and_what_the_formats_want(row):
    with pytest.raises(ValueError, match=r"some\.jsonl: no row is of a known format") as error:
        find_format([row], "some.jsonl")
    for said in (
        *row,
        "hh_rlhf: chosen and rejected",
        "messages: ",
        "text: prompt, chosen and rejected",
        "data.columns",
    ):
        assert said in str(error.value)


def test_a_conversation_of_several_turns_is_read_turn_by_turn():
    turns = ("What is 1 + 1?", "2.", "And\n\n1 + 2?")
    pair = parse_hh_rlhf({"chosen": hh(*turns, "3."), "rejected": hh(*turns, "4.")}, "file:1")
    assert pair.prompt == (
        Message("user", "What is 1 + 1?"),
        Message("assistant", "2."),
        Message("user", "And\n\n1 + 2?"),
    )
    assert (pair.chosen, pair.rejected) == ("3.", "4.")


def test_messages_keep_their_roles():
    turns = [{"role": "system", "content": "Be short."}, ASK, answer("Hello!"), ASK]
    pair = parse_messages({"chosen": [*turns, answer("Again?")], "rejected": [*turns, answer("No.")]}, "file:1")
    assert [message.role for message in pair.prompt] == ["system", "user", "assistant", "user"]
    assert pair.prompt[0] == Message("system", "Be short.")


def test_the_space_around_raw_hh_rlhf_turns_is_no_part_of_them():
    pair = parse_hh_rlhf({"chosen": "\n\nHuman:Hi \n\nAssistant:  Hello!\n", "rejected": HH["rejected"]}, "file:1")
    assert (pair.prompt, pair.chosen) == ((Message("user", "Hi"),), "Hello!")


def test_the_space_around_other_text_is_a_part_of_it():
    pair = parse_text({"prompt": " Hi ", "chosen": "\nHello! ", "rejected": "What?"}, "file:1")
    assert (pair.prompt, pair.chosen) == ((Message("user", " Hi "),), "\nHello! ")


IMITATION = "You write it so:\n\nHuman: Hi\n\nAssistant: Hello!"


@pytest.mark.parametrize(
    ("parse", "row"),
    [
        (parse_text, {**TEXT, "chosen": IMITATION}),
        (parse_messages, {**MESSAGES, "chosen": [ASK, answer(IMITATION)]}),
    ],
)
def test_a_response_that_imitates_turns_stays_one_response(parse, row):
    assert parse(row, "file:1").chosen == IMITATION


@pytest.mark.parametrize("text", ["A Human: is not a turn", "one line\nHuman: is not one", "\n\nhuman: nor this"])
def test_in_raw_hh_rlhf_only_a_blank_line_and_a_capital_begin_a_turn(text):
    assert parse_hh_rlhf({**HH, "chosen": hh("Hi", text)}, "file:1").chosen == text.strip()


def test_a_raw_hh_rlhf_response_that_imitates_turns_is_dropped_and_not_cut():
    # the raw text cannot tell such a response from further turns
    with pytest.raises(RowError) as error:
        parse_hh_rlhf({**HH, "chosen": hh("Hi", IMITATION)}, "file:1")
    assert error.value.reason == "different_prompts"


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize(
    ("parse", "row", "broken", "reason"),
    [
        (parse_text, TEXT, 5, "not_text"),
        (parse_text, TEXT, "half of a \ud83d pair", "not_text"),
        (parse_sharegpt, SHAREGPT, {"from": "gpt", "value": 5}, "not_text"),
        (parse_sharegpt, SHAREGPT, {"from": "gpt"}, "missing_column"),
        (parse_sharegpt, SHAREGPT, {"from": "elf", "value": "Hello!"}, "unknown_role"),
        (parse_sharegpt, SHAREGPT, {"from": "human", "value": "Hello!"}, "no_response"),
        (parse_sharegpt, SHAREGPT, "Hello!", "not_text"),
        (parse_sharegpt, SHAREGPT, None, "null"),
        (parse_hh_rlhf, HH, None, "null"),
        (parse_messages, MESSAGES, None, "null"),
        (parse_hh_rlhf, HH, hh("Hi"), "no_response"),
        (parse_hh_rlhf, HH, hh("Hi", "Hello!", "Bye"), "no_response"),
        (parse_hh_rlhf, HH, "Hello!", "no_response"),
        (parse_hh_rlhf, HH, "\n\nAssistant: Hello!", "no_response"),
        (parse_hh_rlhf, HH, hh("Ho", "Hello!"), "different_prompts"),
        (parse_hh_rlhf, HH, hh("Hi", "Hello!", "Hi", "Hello!"), "different_prompts"),
        (parse_messages, MESSAGES, [], "no_response"),
        (parse_messages, MESSAGES, [answer("Hello!")], "no_response"),
        (parse_messages, MESSAGES, [ASK, answer("Hello!"), ASK], "no_response"),
        (parse_messages, MESSAGES, [{**ASK, "content": "Ho"}, answer("Hello!")], "different_prompts"),
        (parse_messages, MESSAGES, [{**ASK, "role": "system"}, answer("Hello!")], "different_prompts"),
    ],
)
def test_a_broken_row_is_refused_under_a_reason_and_named(parse, row, side, broken, reason):
    with pytest.raises(RowError, match=r"^some\.jsonl:7: ") as error:
        parse({**row, side: broken}, "some.jsonl:7")
    assert error.value.reason == reason


@pytest.mark.parametrize(("prompt", "reason"), [(None, "null"), (5, "not_text"), (["Hi"], "not_text")])
def test_a_prompt_that_is_no_text_is_refused(prompt, reason):
    with pytest.raises(RowError, match="'prompt'") as error:
        parse_text({**TEXT, "prompt": prompt}, "some.jsonl:7")
    assert error.value.reason == reason


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(column):
    row = {name: value for name, value in TEXT.items() if name != column}
    with pytest.raises(RowError, match=f"there is no '{column}'; there is {', '.join(row)}") as error:
        parse_text(row, "some.jsonl:7")
    assert error.value.reason == "missing_column"


def test_an_error_says_which_column_is_broken():
    with pytest.raises(RowError, match="'rejected' is int, not text"):
        parse_text({**TEXT, "rejected": 5}, "some.jsonl:7")


def test_an_empty_response_is_read_as_such_for_the_filters_to_count():
    assert parse_text({**TEXT, "chosen": ""}, "file:1").chosen == ""
    assert parse_text({**TEXT, "chosen": None}, "file:1").chosen == ""
    assert parse_hh_rlhf({**HH, "chosen": "\n\nHuman: Hi\n\nAssistant:"}, "file:1").chosen == ""
    assert parse_messages({**MESSAGES, "chosen": [ASK, answer("")]}, "file:1").chosen == ""
    assert parse_messages({**MESSAGES, "chosen": [ASK, answer(None)]}, "file:1").chosen == ""


@pytest.mark.parametrize(("parse", "row"), READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("scores", "margin"),
    [
        ({"score_chosen": 8.5, "score_rejected": 3}, 5.5),
        ({"score_chosen": 1, "score_rejected": 4}, -3.0),
        ({"score_chosen": 2.0, "score_rejected": 2.0}, 0.0),
        ({"score_chosen": 0, "score_rejected": 0}, 0.0),
        ({"score_chosen": 8.0, "score_rejected": None}, None),
        ({"score_chosen": 8.0, "score_rejected": float("nan")}, None),
        ({"score_chosen": 8.0, "score_rejected": 3.0, "margin": float("nan")}, 5.0),
        ({"score_rejected": 8.0}, None),
        ({}, None),
    ],
)
def test_the_margin_is_the_difference_of_the_scores_where_there_are_two(parse, row, scores, margin):
    assert parse({**row, **scores}, "file:1").margin == margin


@pytest.mark.parametrize("broken", [None, 5])
@pytest.mark.parametrize(("parse", "row"), [(parse_hh_rlhf, HH), (parse_messages, MESSAGES)])
def test_a_side_of_another_type_is_refused_and_named(parse, row, broken):
    with pytest.raises(RowError, match=r"^some\.jsonl:7: "):
        parse({**row, "rejected": broken}, "some.jsonl:7")


@pytest.mark.parametrize(("parse", "row"), READERS.values(), ids=READERS)
def test_a_score_that_is_no_number_is_refused_and_named(parse, row):
    with pytest.raises(RowError, match=r"^some\.jsonl:7: "):
        parse({**row, "score_chosen": "high", "score_rejected": "low"}, "some.jsonl:7")
    with pytest.raises(RowError, match=r"^some\.jsonl:7: "):
        parse({**row, "score_chosen": 1e308, "score_rejected": -1e308}, "some.jsonl:7")


def test_text_before_the_first_turn_is_not_lost_without_a_word():
    with pytest.raises(RowError):
        parse_hh_rlhf({"chosen": "Be kind." + HH["chosen"], "rejected": "Be rude." + HH["rejected"]}, "some.jsonl:7")


@pytest.mark.parametrize("turn", [{"role": "user", "content": None}, {"role": None, "content": "Hi"}])
def test_a_prompt_turn_without_role_or_content_is_not_repaired_without_a_word(turn):
    with pytest.raises(RowError):
        parse_messages({"chosen": [turn, answer("Hello!")], "rejected": [turn, answer("What?")]}, "some.jsonl:7")


def test_content_that_is_no_text_is_refused_and_named():
    parts = [{"type": "text", "text": "Hello!"}]
    with pytest.raises(RowError, match=r"^some\.jsonl:7: "):
        parse_messages({**MESSAGES, "chosen": [ASK, answer(parts)]}, "some.jsonl:7")


@pytest.mark.parametrize("turn", [None, "Hi"])
def test_a_turn_that_is_no_message_is_refused_and_named(turn):
    with pytest.raises(RowError, match=r"^some\.jsonl:7: "):
        parse_messages({**MESSAGES, "rejected": [turn, answer("What?")]}, "some.jsonl:7")


SYSTEM = {"role": "system", "content": "Be short."}


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [SYSTEM, ASK, answer("Hello!")], "rejected": [SYSTEM, ASK, answer("What?")]},
        {"prompt": [SYSTEM, ASK], "chosen": [answer("Hello!")], "rejected": [answer("What?")]},
        {"prompt": [SYSTEM], "chosen": [ASK, answer("Hello!")], "rejected": [ASK, answer("What?")]},
        {
            "prompt": [SYSTEM, ASK],
            "chosen": [SYSTEM, ASK, answer("Hello!")],
            "rejected": [SYSTEM, ASK, answer("What?")],
        },
        {"prompt": "Hi", "system": "Be short.", "chosen": [answer("Hello!")], "rejected": [answer("What?")]},
        {"prompt": "Hi", "chosen": [SYSTEM, answer("Hello!")], "rejected": [SYSTEM, answer("What?")]},
        {"prompt": [ASK], "chosen": [SYSTEM, answer("Hello!")], "rejected": [SYSTEM, answer("What?")]},
        {"prompt": [ASK], "chosen": [SYSTEM, ASK, answer("Hello!")], "rejected": [SYSTEM, ASK, answer("What?")]},
        {"prompt": [SYSTEM, ASK], "chosen": [SYSTEM, answer("Hello!")], "rejected": [answer("What?")]},
        {
            "prompt": "Hi",
            "chosen": [SYSTEM, ASK, answer("Hello!")],
            "rejected": [SYSTEM, ASK, answer("What?")],
        },
    ],
    ids=[
        *("implicit", "explicit", "prompt goes on", "repeated", "text", "text after system", "prompt after system"),
        *("prompt repeated after system", "system repeated", "text repeated"),
    ],
)
def test_the_prompt_of_messages_may_be_implicit_or_explicit(row):
    assert find_format([row], "file").name == "messages"
    expected = (Message("system", "Be short."), Message("user", "Hi"))
    assert parse_messages(row, "file:1") == TextRow.pair("file:1", expected, "Hello!", "What?")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        # only space differs
        ({"prompt": [ASK], "chosen": [{**ASK, "content": "Hi "}, answer("Hello!")]}, ["Hi "]),
        # the conversation goes on after the prompt
        ({"prompt": [ASK], "chosen": [answer("Yes?"), ASK, answer("Hello!")]}, ["Hi", "Yes?", "Hi"]),
        ({"prompt": "Ho", "chosen": [answer("Yes?"), ASK, answer("Hello!")]}, ["Ho", "Yes?", "Hi"]),
        # a prompt that is text may be a later turn, or several of them rendered
        (
            {"prompt": "Ho", "chosen": [ASK, answer("Yes?"), {**ASK, "content": "Ho"}, answer("So.")]},
            ["Hi", "Yes?", "Ho"],
        ),
        ({"prompt": "USER: Hi\nBOT:", "chosen": [ASK, answer("Hello!")]}, ["Hi"]),
        ({"prompt": "Hi", "chosen": [{**ASK, "content": "Hi!\nBe short."}, answer("Hello!")]}, ["Hi!\nBe short."]),
    ],
)
def test_a_side_begins_with_the_prompt_or_goes_on_after_it(row, prompt):
    found = parse_messages({**row, "rejected": [*row["chosen"][:-1], answer("What?")]}, "file:1")
    assert [message.content for message in found.prompt] == prompt


@pytest.mark.parametrize(
    "prompt", [[{"role": "user", "content": "Something else"}], "Something else", "This is a Highway", "i", ""]
)
def test_a_side_that_contradicts_the_prompt_is_refused_and_not_joined_to_it(prompt):
    sides = {side: [ASK, answer(side)] for side in ("chosen", "rejected")}
    with pytest.raises(
        RowError, match="'chosen' neither begins with the column 'prompt' nor goes on after it"
    ) as error:
        parse_messages({"prompt": prompt, **sides}, "file:1")
    assert error.value.reason == "different_prompts"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "user<|end|>", "content": "Hi"}, "unknown_role"),
        ({"role": "elf", "content": "Hi"}, "unknown_role"),
        ({"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}, "tool_calls"),
    ],
)
def test_a_turn_of_an_unknown_role_or_with_calls_is_refused(turn, reason):
    sides = {side: [turn, ASK, answer(side)] for side in ("chosen", "rejected")}
    with pytest.raises(RowError) as error:
        parse_messages(sides, "file:1")
    assert error.value.reason == reason


@pytest.mark.parametrize(("parse", "row"), [(parse_text, TEXT), (parse_sharegpt, SHAREGPT), (parse_unpaired, UNPAIRED)])
def test_a_system_column_becomes_the_first_turn(parse, row):
    assert parse({**row, "system": "Be short."}, "file:1").prompt[0] == Message("system", "Be short.")
    assert parse({**row, "system": ""}, "file:1").prompt == parse(row, "file:1").prompt


def test_a_system_column_beside_another_system_turn_is_not_lost_without_a_word():
    sides = {side: [SYSTEM, ASK, answer(side)] for side in ("chosen", "rejected")}
    assert parse_messages({**sides, "system": "Be short. "}, "file:1") == parse_messages(sides, "file:1")
    with pytest.raises(RowError, match="'system' is another than the system turn") as error:
        parse_messages({**sides, "system": "Be long."}, "file:1")
    assert error.value.reason == "two_system_turns"


def test_two_different_system_turns_are_not_joined_without_a_word():
    sides = {side: [SYSTEM, ASK, answer(side)] for side in ("chosen", "rejected")}
    with pytest.raises(RowError, match="the system turn of 'prompt' is another than that of 'chosen'") as error:
        parse_messages({**sides, "prompt": [{"role": "system", "content": "Be long."}]}, "file:1")
    assert error.value.reason == "two_system_turns"


def test_sharegpt_turns_get_the_roles_of_chat_templates():
    turns = [("system", "a"), ("human", "b"), ("gpt", "c"), ("observation", "d"), ("user", "e")]
    row = {**SHAREGPT, "conversations": [{"from": who, "value": text} for who, text in turns]}
    assert [m.role for m in parse_sharegpt(row, "file:1").prompt] == ["system", "user", "assistant", "tool", "user"]


@pytest.mark.parametrize(
    "row",
    [
        UNPAIRED,
        {"prompt": "Hi", "completion": "Hello!", "label": True},
        {"prompt": [ASK], "completion": [answer("Hello!")], "label": 1},
        # of a file that holds pairs too
        {"prompt": "Hi", "completion": "Hello!", "label": True, "chosen": None, "rejected": None, "messages": None},
    ],
    ids=["messages", "text", "explicit messages", "beside pairs"],
)
def test_unpaired_rows_are_read_with_their_label(row):
    assert find_format([row], "file").name == "unpaired"
    for label in (True, False):
        found = parse_unpaired({**row, "label": label}, "file:1")
        assert found.prompt == (Message("user", "Hi"),)
        assert [(each.text, each.role, each.label) for each in found.responses] == [
            ("Hello!", Role.UNPAIRED, float(label))
        ]
        assert (found.unpaired, found.chosen, found.rejected) == ("Hello!", None, None)


@pytest.mark.parametrize("label", ["true", 0.5, None, [], 2])
def test_a_label_that_is_neither_true_nor_false_is_refused(label):
    with pytest.raises(RowError, match=r"^some\.jsonl:7: ") as error:
        parse_unpaired({**UNPAIRED, "label": label}, "some.jsonl:7")
    assert error.value.reason in ("not_a_label", "null")


ALL_READERS = {**READERS, "unpaired": (parse_unpaired, UNPAIRED)}


@pytest.mark.parametrize(("parse", "row"), ALL_READERS.values(), ids=ALL_READERS)
def test_a_weight_column_is_the_weight_of_the_row(parse, row):
    assert parse({**row, "weight": 0.25}, "file:1").weight == 0.25
    assert parse({**row, "weight": None}, "file:1").weight == 1.0
    for broken in (-1, "much", float("nan"), float("inf")):
        with pytest.raises(RowError, match="'weight'"):
            parse({**row, "weight": broken}, "file:1")


def test_a_margin_column_goes_before_scores():
    assert parse_text({**TEXT, "margin": 0.5, "score_chosen": 9, "score_rejected": 1}, "file:1").margin == 0.5


def test_columns_of_other_names_are_mapped():
    row = {"question": "Hi", "good": "Hello!", "bad": "What?", "chosen": "of another meaning"}
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert parse_text(rename_columns(row, columns), "file:1") == parse_text(TEXT, "file:1")


@pytest.mark.parametrize("name", [row_format.name for row_format in FORMATS])
def test_a_format_can_be_forced(name):
    assert find_format([{"nothing": 1}], "file", name).name == name


def test_a_forced_format_that_is_unknown_is_refused_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"data\.format = 'csv'; accepted: text, messages, hh_rlhf, sharegpt, unpaired"
    ):
        find_format([], "file", "csv")


@pytest.mark.parametrize(("row", "name"), [(row, name) for name, (_, row) in ALL_READERS.items()])
def test_no_row_is_of_two_formats(row, name):
    assert [each.name for each in FORMATS if each.matches(row)] == [name]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(min_value=10**309) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.none() | st.text(max_size=8)}
    )
    | json_values,
    max_size=4,
)
columns = st.sampled_from(
    ["prompt", "chosen", "rejected", "messages", "conversations", "completion", "label", "system", "margin", "weight",
     "score_chosen", "score_rejected"]
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(row=st.dictionaries(columns, json_values | turns | st.text().map(lambda text: f"\n\nHuman: {text}")))
def test_whatever_a_row_holds_it_is_read_or_refused_by_name(row):
    for row_format in FORMATS:
        row_format.matches(row)
        try:
            found = row_format.parse(row, "some.jsonl:7")
        except RowError as error:
            found = error
        if isinstance(found, RowError):
            assert str(found).startswith("some.jsonl:7: ")
            assert found.reason.isidentifier()
        else:
            assert found.row_id == "some.jsonl:7"
            assert found.prompt
            assert all(isinstance(response.text, str) for response in found.responses)


@pytest.mark.parametrize("name", ["\r", "\x1e0", "a\nb", "\ud800", "\u2028", "a" * 10**6])
def test_what_the_columns_are_called_is_told_in_one_line_that_can_be_printed(name):
    with pytest.raises(RowError) as refusal:
        parse_text({name: 1, "prompt": "Hi"}, "file:7")
    said = str(refusal.value)
    assert said.startswith("file:7: there is no 'chosen'; there is ")
    assert said.isprintable()
    assert len(said) < 1000
    with pytest.raises(ValueError, match="no row is of a known format") as refusal:
        find_format([{name: 1}], "file")
    assert str(refusal.value).splitlines()[0].endswith("Known:")
    assert len(str(refusal.value)) < 2000
