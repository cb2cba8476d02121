"""Prompts from files: every form, and every mistake by file and line."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from orpo_lightning.data.prompts import read_prompts
from orpo_lightning.records import Message

TURNS = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
ANSWER = {"role": "assistant", "content": "Hello!"}
MESSAGES = (Message("system", "Be short."), Message("user", "Hi"))


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_line_of_text_is_a_prompt(tmp_path):
    (tmp_path / "a.txt").write_text("Name a colour.\n  two\u2028lines \r\n", encoding="utf-8", newline="")
    first, second = read_prompts(tmp_path / "a.txt")
    assert first.prompt == (Message("user", "Name a colour."),)
    assert second.prompt == (Message("user", "  two\u2028lines "),)
    assert second.row_id == f"{tmp_path}/a.txt:2"


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Hi"}, (Message("user", "Hi"),)),
        ({"prompt": TURNS}, MESSAGES),
        ({"messages": TURNS}, MESSAGES),
        ({"messages": [*TURNS, ANSWER]}, MESSAGES),
        ({"instruction": "Hi", "output": "Hello!"}, (Message("user", "Hi"),)),
        ({"prompt": "Hi", "instruction": "no"}, (Message("user", "Hi"),)),
        ({"prompt": None, "instruction": "Hi"}, (Message("user", "Hi"),)),
    ],
)
def test_the_columns_that_hold_a_prompt(tmp_path, row, messages):
    (from_jsonl,) = read_prompts(jsonl(tmp_path / "a.jsonl", row))
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (from_json,) = read_prompts(tmp_path / "a.json")
    assert from_jsonl.prompt == from_json.prompt == messages


def test_empty_lines_of_a_jsonl_file_count_as_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n\n{"prompt": "three"}\n')
    assert [prompt.row_id.rpartition(":")[2] for prompt in read_prompts(tmp_path / "a.jsonl")] == ["1", "3"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "Hi"}, "has none of the columns prompt, messages, instruction; it has: question"),
        ({}, "it has: none"),
        ([1], "a row is an object with columns, but this is list"),
        ({"prompt": None, "id": 7}, "'prompt' is null, not text or a list of messages"),
        ({"id": 7, "instruction": None, "messages": None}, "'messages' is null, not a list of messages"),
        ({"prompt": 3}, "'prompt' is int, not text or a list of messages"),
        ({"messages": "Hi"}, "'messages' is str, not a list of messages"),
        ({"instruction": TURNS}, "'instruction' is list, not text"),
        ({"prompt": [{"role": "user"}]}, "there is no 'content'; there is role"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"messages": [ANSWER]}, "the prompt is empty"),
    ],
)
def test_a_row_without_a_prompt_is_named(tmp_path, row, sentence):
    with pytest.raises(ValueError, match=f"a.jsonl:2: .*{sentence}|a.jsonl:2: {sentence}"):
        read_prompts(jsonl(tmp_path / "a.jsonl", {"prompt": "fine"}, row))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"prompt": "Hi"}\n{"prompt": \n', "a.jsonl:2: not valid JSON"),
        ("a.json", b"[", "a.json: not valid JSON"),
        ("a.txt", b"\xff\xfe\x00", "not text in UTF-8"),
        ("a.jsonl", b"{}", "a.jsonl:1: has none of the columns"),
        ("a.txt", b"\n", "holds no prompts"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.csv", b"prompt\nHi\n", "the file's kind is not known; accepted: .txt, .json, .jsonl"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file at '.*a.txt'"):
        read_prompts(tmp_path / "a.txt")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prompt", "messages", "instruction", "role", "content"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(rows=st.lists(JSON, min_size=1, max_size=4))
def test_any_row_is_a_prompt_or_an_error_that_names_it(tmp_path_factory, rows):
    path = jsonl(tmp_path_factory.mktemp("rows") / "a.jsonl", *rows)
    message = None
    try:
        prompts = read_prompts(path)
    except ValueError as error:
        message = str(error)
    if message is not None:
        assert str(path) in message
    else:
        assert len(prompts) == len(rows)
        assert all(prompt.prompt for prompt in prompts)
