"""Whatever a row or a file holds: it is read, and none of its text is lost, or refused in a line that names it."""

import gzip
import io
import json
import math
import re

import pyarrow
import pyarrow.parquet
import pytest
from fuzzing import at_every_length, for_all
from hypothesis import strategies as st

from orpo_lightning.data.columns import COLUMNS, RowError
from orpo_lightning.data.files import read_file
from orpo_lightning.data.formats import FORMATS, find_format
from orpo_lightning.records import Role

ROW_ID = "folder/file.jsonl:7"
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
PIECES = (
    *(
        "\n\nHuman:",
        "\n\nAssistant:",
        "\n\nHuman: Hi",
        "\n\nAssistant: Hello!",
        "Human:",
        "\n\n",
        "\n",
        " ",
        "\r",
        "\t",
    ),
    *("\x00", "\ud800", "\udfff", "\ufeff", "\u2028", "\x85", "\x1e", "e\u0301", "🐈\u200d⬛", "null", "<|end|>"),
    *("\n", " ", "\r", "\t", "a" * 3000, "Hi", "Hello!", "What?", "0", "'", '"', "{", "שלום", "猫"),
)
texts = st.sampled_from(["", " ", "Hi", "Hello!"]) | st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
numbers = (
    0,
    1,
    -1,
    0.5,
    -0.0,
    7.25,
    10**400,
    -(10**18),
    1e308,
    -1e308,
    math.inf,
    -math.inf,
    math.nan,
    True,
    False,
    None,
)
plain = st.sampled_from(numbers) | texts
names = st.sampled_from(["role", "content", "from", "value", "tool_calls", "name", "", *PIECES, *COLUMNS])
inner = plain | st.lists(plain, max_size=2) | st.dictionaries(names, plain, max_size=3)
anything = plain | st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
rows = st.dictionaries(st.sampled_from(COLUMNS) | names, anything, max_size=6)

turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLES)), "content": texts}), min_size=1, max_size=4
)
said = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system", "tool"]), "value": texts}), max_size=4
)


def with_answer(conversation, text):
    return [*conversation, {"role": "assistant", "content": text}]


scores = st.dictionaries(st.sampled_from(["score_chosen", "score_rejected", "margin", "weight"]), plain, max_size=3)
systems = st.dictionaries(st.just("system"), texts, max_size=1)
nearly = st.builds(
    lambda row, more, system: {**row, **more, **system},
    st.one_of(
        st.fixed_dictionaries({"prompt": texts, "chosen": texts, "rejected": texts}),
        st.builds(
            lambda turns, a, b: {"chosen": with_answer(turns, a), "rejected": with_answer(turns, b)},
            turns, texts, texts,
        ),
        st.builds(
            lambda turns, a, b: {"prompt": turns, "chosen": with_answer([], a), "rejected": with_answer([], b)},
            turns, texts, texts,
        ),
        st.builds(
            lambda start, a, b: {"chosen": f"\n\nHuman: {start}\n\nAssistant:{a}",
                                 "rejected": f"\n\nHuman: {start}\n\nAssistant:{b}"},
            texts, texts, texts,
        ),
        st.builds(
            lambda turns, a, b: {"conversations": turns, "chosen": {"from": "gpt", "value": a},
                                 "rejected": {"from": "gpt", "value": b}},
            said, texts, texts,
        ),
        st.builds(lambda turns, a, label: {"messages": with_answer(turns, a), "label": label}, turns, texts, plain),
        st.fixed_dictionaries({"prompt": texts, "completion": texts, "label": st.booleans()}),
    ),
    scores,
    systems,
)  # fmt: skip


@st.composite
def mutated(draw):
    """A row of a format, with up to three of its parts dropped or replaced."""
    row = draw(nearly)
    for _ in range(draw(st.integers(0, 3))):
        places = list(places_in(row))
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            holder[key] = draw(anything)
        else:
            del holder[key]
        if not row:
            break
    return row


def places_in(value):
    """Where something can be replaced: the holder and its key."""
    for key, item in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from places_in(item)


def check_row(row):
    """Each format parses the row or refuses it; of one that is parsed, all text is there."""
    matching = [each for each in FORMATS if each.matches(row)]
    assert len(matching) <= 1
    if matching:
        assert find_format([row], "file") is matching[0]
    for each in FORMATS:
        try:
            found = each.parse(row, ROW_ID)
        except RowError as error:
            check_refusal(error)
        else:
            check_parsed(found)
            check_nothing_is_lost(each.name, row, found)


def check_refusal(error):
    assert error.row_id == ROW_ID
    assert error.reason.isidentifier()
    assert str(error).startswith(f"{ROW_ID}: ")
    check_one_line(str(error))


def check_one_line(message):
    assert len(message.splitlines()) == 1, message
    assert len(message) < 2000, "nobody reads that"
    message.encode()  # it can be printed


def check_parsed(found):
    assert found.row_id == ROW_ID
    assert found.prompt
    for message in found.prompt:
        assert message.role in ROLES
        message.content.encode()
    roles = [response.role for response in found.responses]
    assert roles in ([Role.CHOSEN, Role.REJECTED], [Role.UNPAIRED])
    for response in found.responses:
        response.text.encode()
        assert (response.label in (0.0, 1.0)) == (response.role is Role.UNPAIRED)
    assert found.margin is None or math.isfinite(found.margin)
    assert math.isfinite(found.weight)
    assert found.weight >= 0


def check_nothing_is_lost(name, row, found):
    """The texts that a row says are those that were read, in order, but for the blanks around turns of HH-RLHF."""
    prompt = [message.content for message in found.prompt]
    system = [row["system"]] if row.get("system") else []
    responses = [response.text for response in found.responses]
    if name == "text":
        assert prompt == [*system, row["prompt"]]
        assert responses == [row[side] or "" for side in ("chosen", "rejected")]
    elif name == "hh_rlhf":
        for side, response in zip(("chosen", "rejected"), responses, strict=True):
            said = "".join([*prompt[len(system) :], response])
            assert "".join(re.sub(r"\n\n(Human|Assistant):", "", row[side]).split()) == "".join(said.split())
    elif name == "sharegpt":
        values = [turn["value"] for turn in row["conversations"]]
        assert prompt in (values, [*system, *values])
        assert responses == [row[side]["value"] for side in ("chosen", "rejected")]
    elif name == "messages":
        for side, response in zip(("chosen", "rejected"), responses, strict=True):
            told = [turn["content"] or "" for turn in row[side]]
            assert response == told[-1]
            if "".join(told[:-1]).split() != "".join(prompt).split():  # beside it stand a prompt or a system turn
                assert all(text.strip() in [each.strip() for each in prompt] for text in told[:-1])
                assert row.get("prompt") is not None or system
    else:
        column = "messages" if row.get("messages") is not None else "completion"
        told = row[column]
        assert responses == [told if isinstance(told, str) else told[-1]["content"] or ""]


@at_every_length
def test_a_row_of_anything_is_read_or_refused_by_name(examples):
    for_all(examples, check_row, rows)


@at_every_length
def test_a_row_that_is_nearly_one_is_read_whole_or_refused_by_name(examples):
    for_all(examples, check_row, mutated())


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [1, 200, 700, 800, 900, 930, 960, 980, 990, 1000, 100_000])
def test_a_row_that_is_nested_deeply_is_read_or_refused_by_name(tmp_path, column, opening, closing, depth):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"{column}": {opening * depth}0{closing * depth}}}\n')
    try:
        ((_, row),) = read_file(path, "a.jsonl")
    except ValueError as error:
        assert str(error).startswith("a.jsonl:1: not valid JSON (nested too deeply)")  # noqa: PT017  # or there is none
    else:
        check_row(row)


@st.composite
def damaged_files(draw):
    """The kind of a file, its bytes, and how many rows it had, with some of its bits and parts changed."""
    found = draw(st.lists(rows, min_size=1, max_size=3))
    kind = draw(st.sampled_from([".jsonl", ".json", ".jsonl.gz", ".parquet"]))
    content = bytearray(CONTENTS[kind](found))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        change = draw(st.sampled_from(["flip", "cut", "put", "drop", "twice"]))
        if change == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del content[place:]
        elif change == "put":
            content[place:place] = draw(st.sampled_from(BYTES))
        elif change == "drop":
            del content[place : place + draw(st.integers(1, 9))]
        else:
            content += content[place:]
    return kind, bytes(content), found if bytes(content) == CONTENTS[kind](found) else None


BYTES = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r\n",
    b"[",
    b"]",
    b"{",
    b'"',
    b",",
    b"\x1f\x8b",
    b"PAR1",
    b"\xed\xa0\x80",
)


def in_lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def in_parquet(rows):
    """The rows as far as they are of one shape, else as texts."""
    file = io.BytesIO()
    plain = [{"prompt": json.dumps(row), "chosen": "a", "rejected": None} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), file)
    return file.getvalue()


CONTENTS = {
    ".jsonl": in_lines,
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".jsonl.gz": lambda rows: gzip.compress(in_lines(rows), mtime=0),
    ".parquet": in_parquet,
}


@at_every_length
def test_a_file_that_is_damaged_is_read_or_refused_by_name(tmp_path, examples):
    def check(file):
        kind, content, whole = file
        path = tmp_path / f"a{kind}"
        path.write_bytes(content)
        read = []
        try:
            read.extend(read_file(path, path.name))
        except ValueError as error:
            assert str(error).startswith(path.name)  # noqa: PT017  # or there is none
            check_one_line(str(error))
            assert whole is None
        for number, (row_id, row) in enumerate(read, start=1):
            assert row_id.startswith(f"{path.name}:")
            assert isinstance(row, dict)
            if kind == ".parquet":
                assert row_id == f"{path.name}:{number}"
        if whole is not None:
            assert len(read) == len(whole)
            if kind != ".parquet":
                assert json.dumps([row for _, row in read]) == json.dumps(whole)

    for_all(examples, check, damaged_files())
