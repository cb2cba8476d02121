"""answers.jsonl: what was answered before is still there when a run goes on."""

import pytest

from orpo_lightning.summary.answers import Answer, read_answers, write_answers


def answer(step, text="Blue.", prompt="Name a colour."):
    return Answer(step, "a:1", prompt, text, finished=True)


def test_answers_are_read_back_as_they_were(tmp_path):
    odd = answer(0, 'two\nlines, "quotes", \u2028 and ü \ud800', prompt="\x1b[31m")
    write_answers(tmp_path / "answers.jsonl", 0, [odd])
    assert read_answers(tmp_path / "answers.jsonl") == [odd]


def test_the_answers_of_a_step_replace_those_of_it_and_of_later_ones(tmp_path):
    path = tmp_path / "answers.jsonl"
    for step, text in ((0, "before"), (24, "after"), (12, "earlier")):
        write_answers(path, step, [answer(step, text)])
    assert [(each.step, each.answer) for each in read_answers(path)] == [(0, "before"), (12, "earlier")]


def test_without_a_file_there_are_no_answers(tmp_path):
    assert read_answers(tmp_path / "answers.jsonl") == []


@pytest.mark.parametrize("text", ["no json\n", '{"prompt": "Hi", "response": "Hello"}\n', "[1]\n"])
def test_a_file_of_another_kind_is_named(tmp_path, text):
    (tmp_path / "other.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"other\.jsonl cannot be read as the answers"):
        read_answers(tmp_path / "other.jsonl")
