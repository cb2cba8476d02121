"""Mismatched responses: a function of the split alone."""

import dataclasses
import time
from types import SimpleNamespace

import pytest
from helpers import RowsData
from hypothesis import assume, given, settings, strategies as st

from orpo_lightning.data.mismatch import with_mismatched
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow
from orpo_lightning.testing import make_rows, make_unpaired_rows

quick = settings(deadline=None, max_examples=60)
tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
unpaired = st.builds(TokenizedResponse, tokens, st.just(Role.UNPAIRED), st.sampled_from([0.0, 1.0]))
pair = st.tuples(
    st.builds(TokenizedResponse, tokens, st.just(Role.CHOSEN)),
    st.builds(TokenizedResponse, tokens, st.just(Role.REJECTED)),
)
rows_ = st.builds(TokenizedRow, st.just("any:1"), tokens, st.tuples(unpaired) | pair)
splits = st.lists(rows_, min_size=2, max_size=12)


def row(prompt, *responses):
    roles = (Role.CHOSEN, Role.REJECTED) if len(responses) == 2 else (Role.UNPAIRED,)
    labels = (None, None) if len(responses) == 2 else (1.0,)
    given = tuple(TokenizedResponse(ids, *rest) for ids, *rest in zip(responses, roles, labels, strict=True))
    return TokenizedRow("any:1", prompt, given)


def mismatched(rows):
    return [each.responses[-1].ids for each in with_mismatched(rows, "train")]


def test_each_prompt_gets_the_response_of_the_next_row_and_the_last_one_that_of_the_first():
    assert mismatched([row((1,), (10,)), row((2,), (20,)), row((3,), (30,))]) == [(20,), (30,), (10,)]


def test_rows_of_the_same_prompt_are_passed_over():
    rows = [row((1,), (10,)), row((1,), (11,)), row((2,), (20,)), row((1,), (12,))]
    assert mismatched(rows) == [(20,), (20,), (12,), (20,)]


def test_of_pairs_chosen_and_rejected_responses_are_taken_in_turn():
    rows = [row((i,), (10 * i,), (10 * i + 1,)) for i in (1, 2, 3, 4)]
    assert mismatched(rows) == [(20,), (31,), (40,), (11,)]


def test_a_response_that_would_make_the_longest_conversation_longer_is_cut():
    rows = [row((1, 1, 1), (10, 11)), row((2,), (20, 21, 22, 23))]
    assert mismatched(rows) == [(20, 21), (10, 11)]


@pytest.mark.parametrize("make", [make_rows, make_unpaired_rows])
def test_nothing_else_of_a_row_changes(make):
    rows = [dataclasses.replace(each, weight=0.5, margin=2.0) for each in make(9)]
    found = with_mismatched(rows, "train")
    assert [dataclasses.replace(each, responses=each.responses[:-1]) for each in found] == rows
    assert {each.responses[-1].role for each in found} == {Role.MISMATCHED}
    assert {each.responses[-1].label for each in found} == {None}


def conversation(each, response):
    return len(each.prompt) + len(response.ids)


@quick
@given(splits)
def test_every_prompt_gets_a_beginning_of_a_response_to_another_one_and_no_conversation_is_the_longest(rows):
    assume(len({each.prompt for each in rows}) > 1)
    longest = max(conversation(each, response) for each in rows for response in each.responses)
    for each, found in zip(rows, with_mismatched(rows, "train"), strict=True):
        added = found.responses[-1]
        assert 0 < conversation(found, added) <= longest
        others = [response.ids for other in rows if other.prompt != each.prompt for response in other.responses]
        assert any(ids[: len(added.ids)] == added.ids for ids in others)
        assert any(ids == added.ids for ids in others) or conversation(found, added) == longest


@quick
@given(splits)
def test_it_is_the_next_row_with_another_prompt(rows):
    assume(len({each.prompt for each in rows}) > 1)
    for place, ids in enumerate(mismatched(rows)):
        following = [*rows[place + 1 :], *rows[:place]]
        other = next(each for each in following if each.prompt != rows[place].prompt)
        response = other.responses[place % len(other.responses)]
        assert response.ids[: len(ids)] == ids


def test_the_data_module_makes_them_once_for_each_set_of_rows():
    data = RowsData(make_rows(5), make_unpaired_rows(4))
    data.setup("fit")
    assert data.rows["train"] is data.given["train"]
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(needs_mismatched=True))
    first = data.rows
    assert {name: list(rows) for name, rows in first.items()} == {
        name: list(with_mismatched(rows, name)) for name, rows in data.given.items()
    }
    assert all(data.rows[name] is rows for name, rows in first.items())
    data.given["train"] = make_rows(6)
    assert len(data.rows["train"]) == 6
    assert data.rows["validation"] is first["validation"]


def test_the_same_rows_give_the_same_responses():
    assert list(with_mismatched(make_rows(20), "train")) == list(with_mismatched(make_rows(20), "train"))


@pytest.mark.parametrize("rows", [[row((1,), (10,))], [row((1,), (10,)), row((1,), (11,))]])
def test_a_split_of_one_prompt_is_refused(rows):
    with pytest.raises(ValueError, match=r"the validation data has fewer than two different prompts.*KTO"):
        with_mismatched(rows, "validation")


def test_many_rows_of_one_prompt_take_one_pass():
    rows = [*(row((1,), (i % 7,)) for i in range(40_000)), row((2,), (20,))]
    start = time.monotonic()
    assert mismatched(rows)[:3] == [(20,)] * 3
    assert time.monotonic() - start < 20
