"""A format of a user: named by its path, read, counted and refused as ours are."""

import json

import pytest

from orpo_lightning.data.formats import format_named
from orpo_lightning.data.lengths import LengthLimits
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.models.tokenizer import load_tokenizer

RANKED = '''
from orpo_lightning import Format, Message, RowError, TextRow


class RankedAnswers(Format):
    """question, and answers from the best to the worst."""

    def parse(self, row, row_id):
        if len(row["answers"]) < 2:
            raise RowError("one_answer", row_id, "there is nothing to compare the answer with")
        return TextRow.pair(row_id, (Message("user", row["question"]),), row["answers"][0], row["answers"][-1])


class Careless(Format):
    def parse(self, row, row_id):
        return row["question"]


class Abstract(Format):
    pass


class WithArguments(Format):
    def __init__(self, column):
        self.column = column

    def parse(self, row, row_id):
        return None
'''
ROWS = [
    {"question": "Name a colour.", "answers": ["Blue.", "Sky.", "Seven."]},
    {"question": "Name a number.", "answers": ["Seven."]},
    {"question": "Name a fruit.", "answers": ["Plum.", "Blue."]},
]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of formats under a name of its own, since modules are imported once."""

    def write(text, name):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def prepare(path, row_format):
    how = Preparation(load_tokenizer("tiny"), LengthLimits(1000, 900))
    return how.prepare(SourceConfig(path, format=row_format), "train")


def test_rows_of_a_users_format_are_read_and_those_that_it_refuses_are_counted(tmp_path, write_rows, module):
    path = write_rows(tmp_path / "a.jsonl", *ROWS)
    rows, report = prepare(path, f"{module(RANKED, 'formats_read')}.RankedAnswers")
    assert [row.row_id for row in rows] == [f"{path}:1", f"{path}:3"]
    assert str(report) == f"train: {path} (ranked_answers): 3 rows read, 2 kept, dropped: 1 one_answer"
    assert report.dropped_rows == [(f"{path}:2", "one_answer", "there is nothing to compare the answer with")]


def test_rows_are_never_taken_for_a_users_format_unless_it_is_named(tmp_path, write_rows, module):
    format_named(f"{module(RANKED, 'formats_unnamed')}.RankedAnswers")
    with pytest.raises(ValueError, match="no row is of a known format"):
        prepare(write_rows(tmp_path / "a.jsonl", *ROWS), None)


def test_a_users_format_that_has_changed_reads_the_rows_anew(tmp_path, write_rows, module, own_cache):
    path = write_rows(tmp_path / "a.jsonl", *ROWS)
    first, _ = prepare(path, f"{module(RANKED, 'formats_before')}.RankedAnswers")
    turned = RANKED.replace('row["answers"][0], row["answers"][-1]', 'row["answers"][-1], row["answers"][0]')
    second, _ = prepare(path, f"{module(turned, 'formats_after')}.RankedAnswers")
    assert first[0].responses[0].ids == second[0].responses[1].ids
    identities = {format_named(f"{name}.RankedAnswers").identity for name in ("formats_before", "formats_after")}
    assert len({identity.partition(" ")[2] for identity in identities}) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Missing", "is not a subclass of orpo_lightning.Format that can be made"),
        ("RowError", "is not a subclass of orpo_lightning.Format that can be made"),
        ("Abstract", "is not a subclass of orpo_lightning.Format that can be made"),
        ("WithArguments", "is not made without arguments: "),
    ],
)
def test_a_path_to_something_else_is_refused_before_anything_is_read(module, name, said):
    path = f"{module(RANKED, 'formats_refused')}.{name}"
    with pytest.raises(ValueError, match=f"^data.format = '{path}' {said}"):
        SourceConfig("a.jsonl", format=path)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"data\.format = 'no_such_file\.Ranked' cannot be imported: No module named"):
        SourceConfig("a.jsonl", format="no_such_file.Ranked")


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("RankedAnswers", {"question": "Hi"}, "the format ranked_answers failed: KeyError: 'answers'"),
        ("Careless", ROWS[0], "the format careless returned str; accepted: a TextRow"),
    ],
)
def test_a_format_that_fails_is_named_with_the_row(tmp_path, write_rows, module, name, row, said):
    path = write_rows(tmp_path / "a.jsonl", row)
    with pytest.raises(ValueError, match=f"^{path}:1: {said}"):
        prepare(path, f"{module(RANKED, 'formats_failing')}.{name}")


def test_the_command_line_takes_a_format_by_its_path_for_all_sources_and_for_one(
    tmp_path, orpo_lightning, module, capsys
):
    module(RANKED, "formats_of_a_user")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    orpo_lightning("data", "--data.train=a.jsonl", "--data.val=null", "--data.format=formats_of_a_user.RankedAnswers")
    one = '{"path": "a.jsonl", "format": "formats_of_a_user.RankedAnswers"}'
    orpo_lightning("data", f"--data.train=[sample, {one}]", "--data.val=null")
    assert capsys.readouterr().out.count("one_answer") == 2
