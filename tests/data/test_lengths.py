"""The window: what becomes of rows that do not fit, under each policy."""

import pytest
from hypothesis import given, settings, strategies as st

from orpo_lightning.data.columns import RowError
from orpo_lightning.data.lengths import LEAST_LEFT, LENGTH_REASONS, LengthLimits
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow

END = 2


def row(prompt, chosen, rejected=None):
    """A row of these lengths in tokens; every token says where it stood."""

    def response(length, start, role):
        return TokenizedResponse((*range(start, start + length - 1), END), role)

    responses = [response(chosen, 1000, Role.CHOSEN)]
    if rejected is not None:
        responses.append(response(rejected, 2000, Role.REJECTED))
    return TokenizedRow("a:1", tuple(range(10, 10 + prompt)), tuple(responses))


def dropped(limits, given):
    with pytest.raises(RowError) as error:
        limits.fit(given)
    return error.value.reason


@pytest.mark.parametrize("overlong", ["drop", "truncate_prompt", "truncate_response", "error"])
def test_a_row_that_fits_to_the_token_is_left_as_it_is(overlong):
    given = row(20, 10, 5)
    assert LengthLimits(30, 20, overlong).fit(given) is given


def test_drop_names_what_is_too_long_and_by_how_much():
    assert dropped(LengthLimits(100, 20), row(21, 5, 5)) == "prompt_too_long"
    assert dropped(LengthLimits(30, 20), row(20, 5, 11)) == "response_too_long"
    with pytest.raises(RowError, match=r"a:1: prompt and response have 31 tokens, data\.max_length is 30"):
        LengthLimits(30, 20).fit(row(20, 5, 11))


def test_error_names_the_row_and_the_other_policies():
    with pytest.raises(
        ValueError, match=r"a:1: the prompt has 21 tokens, .* set it to drop, truncate_prompt or"
    ) as error:
        LengthLimits(100, 20, "error").fit(row(21, 5))
    assert not isinstance(error.value, RowError)


def test_truncate_prompt_keeps_the_end_of_the_prompt_and_the_whole_responses():
    given = row(50, 10, 12)
    fitted = LengthLimits(40, 39, "truncate_prompt").fit(given)
    assert fitted.prompt == given.prompt[-28:]
    assert fitted.responses == given.responses
    assert LengthLimits(100, 20, "truncate_prompt").fit(given).prompt == given.prompt[-20:]


def test_truncate_prompt_keeps_the_token_that_begins_every_prompt():
    given = row(50, 10)
    fitted = LengthLimits(40, 20, "truncate_prompt", bos=given.prompt[0]).fit(given)
    assert fitted.prompt == (given.prompt[0], *given.prompt[-19:])


def test_truncate_prompt_drops_the_row_where_the_response_leaves_no_room():
    assert dropped(LengthLimits(40, 39, "truncate_prompt"), row(50, 41 - LEAST_LEFT)) == "response_too_long"
    assert len(LengthLimits(40, 39, "truncate_prompt").fit(row(50, 40 - LEAST_LEFT)).prompt) == LEAST_LEFT


def test_truncate_response_keeps_the_beginning_without_an_end():
    given = row(20, 30, 5)
    fitted = LengthLimits(40, 30, "truncate_response").fit(given)
    chosen, rejected = fitted.responses
    assert chosen.ids == given.responses[0].ids[:20]
    assert END not in chosen.ids
    assert rejected == given.responses[1]
    assert fitted.prompt == given.prompt


def test_truncate_response_drops_a_prompt_that_is_too_long_or_leaves_no_room():
    assert dropped(LengthLimits(100, 20, "truncate_response"), row(21, 5)) == "prompt_too_long"
    assert dropped(LengthLimits(40, 39, "truncate_response"), row(41 - LEAST_LEFT, 30)) == "response_too_long"


def test_responses_that_are_the_same_in_what_is_left_of_them_are_dropped():
    alike = TokenizedRow(
        "a:1",
        tuple(range(20)),
        (TokenizedResponse((*range(30), 7), Role.CHOSEN), TokenizedResponse((*range(30), 8), Role.REJECTED)),
    )
    assert dropped(LengthLimits(40, 30, "truncate_response"), alike) == "identical_after_truncation"


@settings(deadline=None, max_examples=300)
@given(
    lengths=st.tuples(*[st.integers(1, 60)] * 3),
    max_length=st.integers(9, 80),
    share=st.floats(0, 1),
    overlong=st.sampled_from(["drop", "truncate_prompt", "truncate_response"]),
)
def test_what_is_kept_fits_and_nothing_is_cut_to_nothing(lengths, max_length, share, overlong):
    least = LEAST_LEFT if overlong == "truncate_prompt" else 1
    limits = LengthLimits(max_length, least + int(share * (max_length - 1 - least)), overlong)
    given = row(*lengths)
    try:
        fitted = limits.fit(given)
    except RowError as error:
        fitted = error
    if isinstance(fitted, RowError):
        assert fitted.reason in LENGTH_REASONS
        return
    assert len(fitted.prompt) <= limits.max_prompt_length
    for before, after in zip(given.responses, fitted.responses, strict=True):
        assert len(fitted.prompt) + len(after.ids) <= max_length
        assert len(after.ids) >= min(len(before.ids), LEAST_LEFT)
    assert len(fitted.prompt) >= min(len(given.prompt), LEAST_LEFT, limits.max_prompt_length)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((7, 1), r"data\.max_length = 7 is out of range; accepted: 8 or more"),
        (
            (32, 32),
            r"data\.max_prompt_length = 32 leaves no room for a response in data\.max_length = 32; accepted: 1 to 31",
        ),
        ((32, 0), r"data\.max_prompt_length = 0"),
        (
            (32, 7, "truncate_prompt"),
            r"data\.max_prompt_length = 7 is out of range",
        ),
        ((32, 16, "cut"), r"data\.overlong = 'cut'; accepted: drop, truncate_prompt, truncate_response, error"),
    ],
)
def test_limits_out_of_range_are_refused_by_name(arguments, said):
    with pytest.raises(ValueError, match=said):
        LengthLimits(*arguments)
