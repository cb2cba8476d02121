"""Formats: how rows are recognised and read, and what is said of those that cannot be."""

import pytest

from orpo_lightning.data.formats import RowError, detect_format, parse_hh_rlhf, parse_messages, parse_text
from orpo_lightning.records import Message, PreferencePair

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
READERS = {"text": (parse_text, TEXT), "messages": (parse_messages, MESSAGES), "hh_rlhf": (parse_hh_rlhf, HH)}


@pytest.mark.parametrize(("parse", "row"), READERS.values(), ids=READERS)
def test_the_same_pair_is_read_from_every_format(parse, row):
    assert parse(row, "file:3") == PreferencePair("file:3", (Message("user", "Hi"),), "Hello!", "What?")


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, (_, row) in READERS.items()])
def test_a_format_is_recognised_by_its_row(name, row):
    assert detect_format([row], "file").name == name


def test_further_columns_do_not_hide_a_format():
    # UltraFeedback-binarized has a text column `prompt` as well
    assert detect_format([{"prompt": "Hi", "prompt_id": "x", "messages": [], **MESSAGES}], "file").name == "messages"
    assert detect_format([{"prompt": "Hi", **HH}], "file").name == "hh_rlhf"
    assert detect_format([{"kind": "greeting", **TEXT}], "file").name == "text"


def test_text_that_only_mentions_human_is_not_raw_hh_rlhf():
    row = {"prompt": "Hi", "chosen": "Human: is a word\n\nHuman: is one too", "rejected": "no"}
    assert detect_format([row], "file").name == "text"


def test_one_side_in_raw_hh_rlhf_is_not_enough():
    assert detect_format([{**TEXT, "chosen": HH["chosen"]}], "file").name == "text"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hi", "answer": "Hello!"},
        {"question": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"question": "Hi", "chosen": ["Hello!"], "rejected": ["What?"]},
        {"question": "Hi", "chosen": [{"from": "gpt", "value": "Hello!"}], "rejected": []},
    ],
)
def test_a_row_of_no_known_format_is_refused_with_its_columns_and_what_the_formats_want(row):
    with pytest.raises(ValueError, match=r"some\.jsonl: no row is of a known format") as error:
        detect_format([row], "some.jsonl")
    for said in (*row, "hh_rlhf: chosen and rejected", "messages: ", "text: prompt, chosen and rejected"):
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
        (parse_text, TEXT, None, "not_text"),
        (parse_text, TEXT, 5, "not_text"),
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


@pytest.mark.parametrize("prompt", [None, 5, ["Hi"]])
def test_a_prompt_that_is_no_text_is_refused(prompt):
    with pytest.raises(RowError, match="'prompt'") as error:
        parse_text({**TEXT, "prompt": prompt}, "some.jsonl:7")
    assert error.value.reason == "not_text"


def test_an_error_says_which_column_is_broken():
    with pytest.raises(RowError, match="'rejected' is NoneType, not text"):
        parse_text({**TEXT, "rejected": None}, "some.jsonl:7")


def test_an_empty_response_is_read_as_such_for_the_filters_to_count():
    assert parse_text({**TEXT, "chosen": ""}, "file:1").chosen == ""
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
