"""The table of tokenized rows: what goes in comes out."""

import dataclasses

import pytest

from orpo_lightning.data.segments import PROMPT
from orpo_lightning.data.token_table import TableBuilder, TokenTable
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow
from orpo_lightning.testing import make_rows

ROWS = [
    *make_rows(5),
    TokenizedRow("ü:1", (7,), (TokenizedResponse((8, 2), Role.UNPAIRED, 0.0),), weight=0.0),
    TokenizedRow("a\n:2", (2**30, 7), (TokenizedResponse((2,), Role.UNPAIRED, 1.0),), margin=-0.1, weight=0.1),
]


@pytest.fixture
def table():
    builder = TableBuilder()
    for number, row in enumerate(ROWS):
        builder.add(row, f"key {number}")
    return builder.table()


def test_rows_come_back_as_they_were(table):
    assert list(table) == ROWS == table[:]
    assert (table[-1], table[1:3], table[::-2]) == (ROWS[-1], ROWS[1:3], ROWS[::-2])
    for index in (len(ROWS), -len(ROWS) - 1):
        with pytest.raises(IndexError):
            table[index]


def test_a_table_comes_back_from_a_file_as_it_was(table, tmp_path):
    table.save(tmp_path / "table.npz", report="ä 猫")
    found, texts = TokenTable.load(tmp_path / "table.npz")
    assert list(found) == ROWS
    assert texts == {"report": "ä 猫"}
    assert found.prompt_keys == table.prompt_keys


def test_lengths_are_those_of_the_segments_of_a_role(table):
    assert table.lengths(PROMPT).tolist() == [len(row.prompt) for row in ROWS]
    assert table.lengths(Role.UNPAIRED).tolist() == [2, 1]
    assert table.lengths(Role.CHOSEN).tolist() == [len(row.responses[0].ids) for row in ROWS[:5]]


def test_rows_are_checked_when_they_are_made(table):
    broken = dataclasses.replace(table, weight=table.weight - 5)
    with pytest.raises(ValueError, match="made:1: the row's weight is"):
        broken[0]
