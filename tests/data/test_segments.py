"""The sizes of rows, and that no rows are held where only these are needed."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from orpo_lightning.data.batching import BatchPlan
from orpo_lightning.data.mismatch import with_mismatched
from orpo_lightning.data.segments import Segments
from orpo_lightning.data.splits import Mixture
from orpo_lightning.data.token_table import TableBuilder
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow
from orpo_lightning.testing import make_rows, make_unpaired_rows

quick = settings(deadline=None, max_examples=60)


def table_of(rows):
    builder = TableBuilder()
    for row in rows:
        builder.add(row, prompt_key="")
    return builder.table()


ROWS = [*make_rows(7), *make_unpaired_rows(6, seed=3), *make_rows(4, seed=5)]
TABLE = table_of(ROWS)
KINDS = {
    "list": ROWS,
    "table": TABLE,
    "mixture": Mixture([(TABLE, [3, 3, 0]), (TABLE, []), (ROWS, [11, 2]), (TABLE, range(len(ROWS)))]),
    "mismatched": with_mismatched(TABLE, "train"),
    "mismatched mixture": with_mismatched(Mixture([(TABLE, [16, 8, 8, 1]), (ROWS, [5])]), "train"),
    "mixture of mismatched": Mixture([(with_mismatched(ROWS, "train"), [4, 9, 4])]),
}


@pytest.mark.parametrize("rows", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("roles", [tuple(Role), (Role.CHOSEN, Role.UNPAIRED), ()])
def test_the_sizes_are_those_of_the_rows(rows, roles):
    sizes, made = Segments.of(rows), list(rows)
    assert sizes.prompts.tolist() == [len(row.prompt) for row in made]
    assert sizes.responses.tolist() == [len(row.responses) for row in made]
    assert sizes.conversations.tolist() == [
        len(row.prompt) + max(len(response.ids) for response in row.responses) for row in made
    ]
    assert sizes.stream_tokens(roles).tolist() == [
        len(row.prompt) + sum(len(response.ids) - 1 for response in row.responses if response.role in roles)
        for row in made
    ]
    for role in Role:
        having = [i for i, row in enumerate(made) if any(response.role is role for response in row.responses)]
        assert sizes.first_row_with(role) == (having[0] if having else None)


@quick
@given(st.lists(st.lists(st.integers(0, len(ROWS) - 1), max_size=5), min_size=1, max_size=4).filter(any))
def test_the_sizes_of_any_mixture_are_those_of_its_rows(drawn):
    mixture = Mixture([(TABLE if i % 2 else ROWS, rows) for i, rows in enumerate(drawn)])
    found, expected = Segments.of(mixture), Segments.of(list(mixture))
    for field in dataclasses.fields(Segments):
        assert np.array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_mismatched_responses_of_a_table_are_those_of_its_rows():
    found, expected = with_mismatched(TABLE, "train"), with_mismatched(ROWS, "train")
    assert list(found) == list(expected) == found[:]
    assert found[-1] == expected[len(ROWS) - 1]


def test_of_no_rows_there_are_no_sizes():
    assert Segments.of([]).first_row_with(Role.CHOSEN) is None
    assert Segments.of([]).row_start.size == 0


def a_large_table():
    """1,000 pairs of about 600 tokens, no two of which are one object when they are unpacked."""
    generator = np.random.default_rng(0)
    builder = TableBuilder()
    for i in range(1000):
        prompt, chosen, rejected = (tuple(generator.integers(1000, 50_000, 200).tolist()) for _ in range(3))
        responses = (TokenizedResponse(chosen, Role.CHOSEN), TokenizedResponse(rejected, Role.REJECTED))
        builder.add(TokenizedRow(f"large:{i}", prompt, responses), prompt_key="")
    return builder.table()


def peak(work):
    tracemalloc.start()
    try:
        kept = work()
        return tracemalloc.get_traced_memory()[1], kept
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_planning_takes_less_memory_than_the_tokens():
    table = a_large_table()
    assert peak(lambda: list(table))[0] > 8 * table.ids.nbytes

    def plan():
        rows = with_mismatched(Mixture([(table, range(len(table)))]), "train")
        plan = BatchPlan(rows, global_batch_size=len(rows), accumulate=100)
        plan.check_tokens(epoch=0)
        return plan, plan[3], Segments.of(rows).conversations.max(), Segments.of(rows).first_row_with(Role.UNPAIRED)

    assert peak(plan)[0] < table.ids.nbytes
