"""The packed stream: each prompt once, no padding, every token of every row recoverable from it."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from orpo_lightning.packing import GroupSpan, ResponseSpan, pack, unpack
from orpo_lightning.records import ResponseLogps, Role, StepInfo, TokenizedResponse, TokenizedRow, UndeclaredNeedError

WITHOUT_REJECTED = [role for role in Role if role is not Role.REJECTED]
STEP = StepInfo(weight=3.0, tokens_per_pair=2.5, full_tokens_per_pair=4.5)


def response(role, *ids, label=None):
    return TokenizedResponse(ids, role, label)


def pair(row_id, prompt, chosen, rejected, **options):
    return TokenizedRow(row_id, prompt, (response(Role.CHOSEN, *chosen), response(Role.REJECTED, *rejected)), **options)


# the stream of both:  10 11 12 | 20 21 | 30 || 13 | - | 31 32
#           position:   0  1  2    3  4    5     6       7  8
FIRST = pair("a:1", (10, 11, 12), (20, 21, 2), (30, 2), margin=1.5, weight=2.0)
SECOND = pair("a:2", (13,), (2,), (31, 32, 2))


@pytest.fixture
def batch():
    return pack([FIRST, SECOND], STEP)


def test_each_prompt_stands_once_and_its_responses_follow_without_their_last_token(batch):
    assert batch.input_ids.tolist() == [10, 11, 12, 20, 21, 30, 13, 31, 32]
    assert batch.num_tokens == 9
    assert len(batch) == 2


def test_both_responses_start_at_the_length_of_their_prompt(batch):
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2]


def test_a_response_token_is_predicted_by_the_token_before_it_and_the_first_by_the_end_of_the_prompt(batch):
    assert batch.score_index.tolist() == [2, 3, 4, 2, 5, 6, 6, 7, 8]
    assert batch.score_target.tolist() == [20, 21, 2, 30, 2, 2, 31, 32, 2]
    assert batch.score_response.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3]


def test_every_prompt_token_but_the_first_is_predicted(batch):
    assert batch.prompt_index.tolist() == [0, 1]
    assert batch.prompt_target.tolist() == [11, 12]
    assert batch.prompt_group.tolist() == [0, 0]
    assert batch.prompt_tokens.tolist() == [2, 0]


def test_responses_know_their_length_group_and_role(batch):
    assert batch.tokens.tolist() == [3, 2, 1, 3]
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert batch.role.tolist() == [Role.CHOSEN, Role.REJECTED, Role.CHOSEN, Role.REJECTED]
    assert batch.chosen.tolist() == [0, 2]
    assert batch.rejected.tolist() == [1, 3]
    assert batch.label.isnan().all()


def test_rows_keep_their_weight_margin_id_and_step(batch):
    assert batch.weight.tolist() == [2.0, 1.0]
    assert batch.margin[0] == 1.5
    assert math.isnan(batch.margin[1])
    assert batch.row_ids == ("a:1", "a:2")
    assert batch.step is STEP


def test_a_one_token_response_takes_no_place_in_the_stream(batch):
    assert batch.groups == (
        GroupSpan(0, 3, (ResponseSpan(3, 5), ResponseSpan(5, 6))),
        GroupSpan(6, 7, (ResponseSpan(7, 7), ResponseSpan(7, 9))),
    )


def test_a_pair_of_one_token_responses_costs_its_prompt_only():
    batch = pack([pair("a:1", (5, 6), (7,), (8,))], STEP)
    assert batch.input_ids.tolist() == [5, 6]
    assert batch.score_index.tolist() == [1, 1]
    assert batch.score_target.tolist() == [7, 8]
    assert batch.longest == 2


def test_the_longest_conversation_is_a_prompt_with_its_longest_response(batch):
    # 3 + 2 input tokens in the first group, 1 + 2 in the second
    assert [group.longest for group in batch.groups] == [5, 3]
    assert batch.longest == 5


def test_given_weights_replace_those_of_the_rows():
    assert pack([FIRST, SECOND], STEP, [0.0, 0.5]).weight.tolist() == [0.0, 0.5]


def test_groups_of_one_two_and_three_responses_share_a_batch():
    rows = [
        TokenizedRow("kto:1", (5,), (response(Role.UNPAIRED, 6, 2, label=1.0),)),
        pair("pair:1", (5,), (7, 2), (8, 2)),
        TokenizedRow("rank:1", (5,), tuple(response(Role.UNPAIRED, 9, 2, label=x) for x in (0.5, 0.25, 0.75))),
    ]
    batch = pack(rows, STEP)
    assert batch.group.tolist() == [0, 1, 1, 2, 2, 2]
    assert [len(group.responses) for group in batch.groups] == [1, 2, 3]
    assert batch.chosen.tolist() == [1]
    assert batch.rejected.tolist() == [2]
    assert batch.label.tolist() == pytest.approx([1.0, math.nan, math.nan, 0.5, 0.25, 0.75], nan_ok=True)
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 1, 0, 1, 1, 1]


def test_leaving_the_rejected_responses_out_leaves_everything_else_in():
    unpaired = TokenizedRow("kto:1", (40,), (response(Role.UNPAIRED, 41, 2, label=0.0),))
    batch = pack([FIRST, SECOND, unpaired], STEP, roles=WITHOUT_REJECTED)
    assert batch.input_ids.tolist() == [10, 11, 12, 20, 21, 13, 40, 41]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 0, 1]
    assert batch.score_target.tolist() == [20, 21, 2, 2, 41, 2]
    assert batch.role.tolist() == [Role.CHOSEN, Role.CHOSEN, Role.UNPAIRED]
    assert batch.chosen.tolist() == [0, 1]
    assert batch.rejected.tolist() == []
    assert batch.weight.tolist() == [2.0, 1.0, 1.0]


def test_an_empty_prompt_is_refused_by_row():
    with pytest.raises(ValueError, match=r"file:7.*prompt has no tokens"):
        pair("file:7", (), (1,), (2,))


@pytest.mark.parametrize(("chosen", "rejected"), [((), (1,)), ((1,), ())])
def test_an_empty_response_is_refused_by_row(chosen, rejected):
    with pytest.raises(ValueError, match=r"file:7.*response has no tokens"):
        pair("file:7", (5,), chosen, rejected)


def test_a_prompt_without_responses_is_refused_by_row():
    with pytest.raises(ValueError, match="file:7"):
        TokenizedRow("file:7", (5,), ())


tokens = st.lists(st.integers(0, 96), min_size=1, max_size=6).map(tuple)
responses = st.builds(TokenizedResponse, tokens, st.sampled_from(Role))
groups = st.builds(TokenizedRow, st.just("any:1"), tokens, st.lists(responses, min_size=1, max_size=4).map(tuple))


def conversations_of(batch):
    """Every conversation of the batch, put together from what is scored; the stream must have predicted it."""
    for number in range(len(batch.tokens)):
        scored = batch.score_response == number
        group = batch.groups[batch.group[number]]
        prompt = batch.input_ids[group.start : group.prompt_end].tolist()
        conversation = prompt + batch.score_target[scored].tolist()
        inputs = batch.score_index[scored]
        # the input at each scored position is the token before the target, at its place in the conversation
        assert batch.input_ids[inputs].tolist() == conversation[len(prompt) - 1 : -1]
        assert batch.position_ids[inputs].tolist() == list(range(len(prompt) - 1, len(conversation) - 1))
        yield conversation


@settings(deadline=None, max_examples=50)
@given(st.lists(groups, min_size=1, max_size=5))
def test_every_conversation_can_be_read_back_from_the_stream(rows):
    batch = pack(rows, STEP)
    given = [[*row.prompt, *response.ids] for row in rows for response in row.responses]
    assert list(conversations_of(batch)) == given


@settings(deadline=None, max_examples=50)
@given(st.lists(groups, min_size=1, max_size=5))
def test_every_prompt_can_be_read_back_from_its_scored_tokens(rows):
    batch = pack(rows, STEP)
    for number, (row, span) in enumerate(zip(rows, batch.groups, strict=True)):
        scored = batch.prompt_group == number
        assert (batch.input_ids[span.start].item(), *batch.prompt_target[scored].tolist()) == row.prompt
        assert tuple(batch.input_ids[batch.prompt_index[scored]].tolist()) == row.prompt[:-1]
        assert batch.prompt_tokens[number] == len(row.prompt) - 1


@settings(deadline=None, max_examples=50)
@given(st.lists(groups, min_size=1, max_size=5))
def test_the_stream_holds_no_padding(rows):
    # all tokens of all rows, less the last of each response, which predicts nothing
    assert pack(rows, STEP).num_tokens == sum(row.num_tokens - len(row.responses) for row in rows)


@settings(deadline=None, max_examples=50)
@given(st.lists(groups, min_size=1, max_size=5))
def test_a_batch_is_unpacked_into_the_rows_that_it_was_packed_from(rows):
    assert unpack(pack(rows, STEP)) == rows


def fields_of(batch, kind):
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor) is kind}


def test_moving_a_batch_moves_all_its_tensors_and_keeps_the_rest(batch):
    moved = batch.to("meta")
    assert {value.device.type for value in fields_of(moved, True).values()} == {"meta"}
    assert fields_of(moved, True).keys() == fields_of(batch, True).keys()
    assert fields_of(moved, False) == fields_of(batch, False)


def test_moving_a_batch_leaves_the_original_where_it_was(batch):
    batch.to("meta")
    assert {value.device.type for value in fields_of(batch, True).values()} == {"cpu"}


def table_of(batch, logps, prompt_logps=None):
    return ResponseLogps(
        logps=torch.tensor(logps),
        tokens=batch.tokens,
        group=batch.group,
        role=batch.role,
        label=batch.label,
        prompt_logps=None if prompt_logps is None else torch.tensor(prompt_logps),
        prompt_tokens=batch.prompt_tokens,
    )


def test_the_table_of_responses_becomes_pairs(batch):
    pairs = batch.pairs(table_of(batch, [-1.0, -2.0, -3.0, -4.0]))
    assert pairs.chosen.tolist() == [-1.0, -3.0]
    assert pairs.chosen_tokens.tolist() == [3, 1]
    assert pairs.rejected.tolist() == [-2.0, -4.0]
    assert pairs.rejected_tokens.tolist() == [2, 3]
    assert pairs.margin.tolist() == pytest.approx([1.5, math.nan], nan_ok=True)
    assert (pairs.tokens_per_pair, pairs.full_tokens_per_pair) == (2.5, 4.5)


def test_the_whole_conversation_is_the_prompt_and_the_chosen_response(batch):
    pairs = batch.pairs(table_of(batch, [-1.0, -2.0, -3.0, -4.0], [-10.0, 0.0]))
    assert pairs.chosen_full.tolist() == [-11.0, -3.0]
    assert pairs.chosen_full_tokens.tolist() == [2 + 3, 0 + 1]


def test_a_pair_finds_its_prompt_and_margin_among_unpaired_rows():
    unpaired = TokenizedRow("kto:1", (5, 6), (response(Role.UNPAIRED, 7, 2),), margin=9.0)
    batch = pack([unpaired, FIRST, unpaired, SECOND], STEP)
    pairs = batch.pairs(table_of(batch, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], [-10.0, -20.0, -30.0, -40.0]))
    assert pairs.chosen.tolist() == [-2.0, -5.0]
    assert pairs.rejected.tolist() == [-3.0, -6.0]
    assert pairs.chosen_full.tolist() == [-22.0, -45.0]
    assert pairs.chosen_full_tokens.tolist() == [2 + 3, 0 + 1]
    assert pairs.margin.tolist() == pytest.approx([1.5, math.nan], nan_ok=True)


def test_pairs_of_a_stream_without_rejected_responses_have_none():
    batch = pack([FIRST, SECOND], STEP, roles=WITHOUT_REJECTED)
    pairs = batch.pairs(table_of(batch, [-1.0, -2.0]))
    assert not pairs.has_rejected
    assert pairs.chosen.tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("role", [Role.CHOSEN, Role.REJECTED])
def test_half_a_pair_among_pairs_is_refused_by_row(role):
    # it would shift the pairs after it against each other
    half = TokenizedRow("half:1", (5,), (response(role, 6, 2),))
    batch = pack([half, FIRST], STEP)
    with pytest.raises(ValueError, match="half:1") as error:
        batch.pairs(table_of(batch, [-1.0, -2.0, -3.0]))
    assert FIRST.row_id not in str(error.value)


def test_chosen_responses_alone_are_no_halves():
    batch = pack([TokenizedRow("sft:1", (5,), (response(Role.CHOSEN, 6, 2),))], STEP)
    assert batch.pairs(table_of(batch, [-1.0])).chosen.tolist() == [-1.0]


# single responses

MIXED = [
    TokenizedRow(
        "kto:1", (5,), (response(Role.UNPAIRED, 6, 2, label=1.0), response(Role.MISMATCHED, 9, 9)), weight=3.0
    ),
    dataclasses.replace(FIRST, responses=(*FIRST.responses, response(Role.MISMATCHED, 8))),
    TokenizedRow("kto:2", (7,), (response(Role.UNPAIRED, 8, label=0.0), response(Role.MISMATCHED, 9)), weight=0.5),
]


def unpaired_view(rows, logps, **step):
    batch = pack(rows, dataclasses.replace(STEP, **step))
    return batch.unpaired(table_of(batch, logps))


def test_the_table_of_responses_becomes_single_responses_with_a_verdict():
    view = unpaired_view(MIXED, [-1.0, -10.0, -2.0, -3.0, -20.0, -4.0, -30.0], split_has_pairs=True)
    assert view.logps.tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert view.tokens.tolist() == [2, 3, 2, 1]
    assert view.desirable.tolist() == [True, True, False, False]
    assert view.weight.tolist() == [3.0, 2.0, 2.0, 0.5]
    # that of the response's own prompt
    assert view.mismatched.tolist() == [-10.0, -20.0, -20.0, -30.0]
    assert view.pairs.tolist() == [[1], [2]]


def test_single_responses_of_data_without_pairs_have_none():
    assert unpaired_view([MIXED[0]], [-1.0, -2.0]).pairs is None


def test_a_batch_without_pairs_of_data_with_pairs_has_none_of_them():
    assert unpaired_view([MIXED[0]], [-1.0, -2.0], split_has_pairs=True).pairs.shape == (2, 0)


def test_without_mismatched_responses_there_are_none_to_read():
    view = unpaired_view([FIRST], [-1.0, -2.0])
    with pytest.raises(UndeclaredNeedError, match="needs_mismatched = True"):
        _ = view.mismatched


def test_pairs_do_not_see_the_mismatched_responses_beside_them():
    batch = pack([MIXED[1], SECOND], STEP)
    pairs = batch.pairs(table_of(batch, [-1.0, -2.0, -20.0, -3.0, -4.0]))
    assert pairs.chosen.tolist() == [-1.0, -3.0]
    assert pairs.rejected.tolist() == [-2.0, -4.0]


@pytest.mark.parametrize("label", [None, 0.5, math.nan, -1.0])
def test_an_unpaired_response_that_is_neither_desirable_nor_undesirable_is_refused_by_row(label):
    odd = TokenizedRow("odd:1", (5,), (response(Role.UNPAIRED, 6, label=label),))
    with pytest.raises(ValueError, match=r"label of an unpaired response is 1 or 0: odd:1$"):
        unpaired_view([FIRST, odd], [-1.0, -2.0, -3.0])


def test_a_mismatched_response_is_laid_out_after_its_prompt_like_any_other():
    batch = pack([MIXED[0]], STEP)
    assert batch.input_ids.tolist() == [5, 6, 9]
    assert batch.position_ids.tolist() == [0, 1, 1]
    assert batch.score_index.tolist() == [0, 1, 0, 2]


def test_rows_that_are_unpacked_keep_margin_weight_and_labels_and_lack_what_is_not_in_the_stream():
    assert unpack(pack(MIXED, STEP)) == MIXED
    without = unpack(pack([FIRST, SECOND], STEP, weights=[0.0, 1.0], roles=WITHOUT_REJECTED))
    expected = [dataclasses.replace(row, responses=row.responses[:1]) for row in (FIRST, SECOND)]
    assert without == [dataclasses.replace(expected[0], weight=0.0), expected[1]]


def test_roles_that_are_not_asked_for_are_left_out():
    batch = pack(MIXED, STEP, roles=[Role.UNPAIRED])
    assert batch.role.tolist() == [Role.UNPAIRED] * 2
    assert len(batch) == 3


@pytest.mark.parametrize("pinned", [False, True])
def test_nobody_waits_for_copies_out_of_page_locked_memory(monkeypatch, pinned):
    batch, asked = pack([FIRST], STEP), []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: pinned)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: asked.append((args, kwargs)) or self)
    batch.to("cuda")
    assert asked
    assert all(each == (("cuda",), {"non_blocking": pinned}) for each in asked)
