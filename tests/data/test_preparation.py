"""From a source to tokenized rows: what is dropped, and that nothing goes missing."""

from collections import Counter

import numpy as np
import pytest
from helpers import slow
from hypothesis import HealthCheck, given, settings, strategies as st
from rich.console import Console

from orpo_lightning import Filter
from orpo_lightning.data.filters import Duplicates, SharedPrompts, SmallMargin
from orpo_lightning.data.lengths import LengthLimits
from orpo_lightning.data.preparation import FEW_UNREADABLE, Preparation
from orpo_lightning.data.report import SplitReport, print_reports
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.models.tokenizer import end_of_turn, load_tokenizer
from orpo_lightning.records import Role

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
OTHER = {"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Blue."}
NO_LIMIT = LengthLimits(10**6, 10**6 - 1)


def prepare(
    source, split="train", *, filters=(), limit=None, validation_prompts=(), columns=None, row_format=None, **limits
):
    how = Preparation(
        load_tokenizer("tiny"), LengthLimits(**{"max_length": 1000, "max_prompt_length": 900, **limits}), filters, limit
    )
    config = SourceConfig(str(source), format=row_format, columns=columns or {})
    return how.prepare(config, split, validation_prompts=validation_prompts)


@pytest.fixture
def write(write_rows):
    return write_rows


def test_no_row_of_the_sample_is_dropped():
    rows, report = prepare("sample")
    assert str(report) == "train: sample (text): 250 rows read, 250 kept, dropped: none"
    assert len(rows) == 250


BAD = {
    "empty_chosen": {**GOOD, "chosen": " \n"},
    "empty_rejected": {**GOOD, "rejected": ""},
    "identical_responses": {**GOOD, "rejected": GOOD["chosen"]},
    "not_text": {**GOOD, "chosen": 5},
    "null": {**GOOD, "prompt": None},
    "missing_column": {"prompt": "Hi", "chosen": "Hello!"},
    "prompt_too_long": {**GOOD, "prompt": "long " * 1000},
    "response_too_long": {**GOOD, "rejected": "long " * 1000},
}


def test_a_bad_first_row_does_not_hide_the_format(tmp_path, write):
    rows, report = prepare(write(tmp_path / "a.jsonl", {**GOOD, "chosen": 5}, GOOD))
    assert report.format == "text"
    assert report.dropped == {"not_text": 1}
    assert len(rows) == 1


@pytest.mark.parametrize("reason", BAD)
def test_a_dropped_row_is_counted_under_its_reason(tmp_path, write, reason):
    rows, report = prepare(write(tmp_path / "a.jsonl", GOOD, BAD[reason], OTHER))
    assert report.dropped == {reason: 1}
    assert [row.row_id.rpartition(":")[2] for row in rows] == ["1", "3"]


def test_a_row_with_two_faults_is_counted_once(tmp_path, write):
    _, report = prepare(write(tmp_path / "a.jsonl", GOOD, {**GOOD, "chosen": "", "rejected": ""}))
    assert report.dropped == {"empty_chosen": 1}


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([None, *BAD]), max_size=12))
def test_every_row_read_is_either_kept_or_counted(tmp_path_factory, write, faults):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    rows, report = prepare(write(path, GOOD, *(BAD.get(fault, OTHER) for fault in faults)))
    assert report.read == 1 + len(faults)
    assert report.kept == len(rows) == 1 + faults.count(None)
    assert report.dropped == Counter(fault for fault in faults if fault)


def test_the_report_says_what_became_of_the_rows(tmp_path, write):
    path = write(tmp_path / "a.jsonl", GOOD, BAD["empty_chosen"], BAD["not_text"], BAD["not_text"])
    _, report = prepare(path, split="validation")
    said = "4 rows read, 1 kept, dropped: 2 not_text, 1 empty_chosen"
    assert str(report) == f"validation: {path} (text): {said}"


def test_large_counts_are_readable():
    report = SplitReport("train", "a.jsonl", "text", read=12345, kept=12000, dropped=Counter(empty_chosen=345))
    assert str(report) == "train: a.jsonl (text): 12,345 rows read, 12,000 kept, dropped: 345 empty_chosen"


@pytest.mark.parametrize("longer", ["chosen", "rejected"])
def test_the_longest_conversation_that_is_kept_has_exactly_max_length_tokens(tmp_path, write, longer):
    path = write(tmp_path / "a.jsonl", GOOD, {**OTHER, longer: "A much longer answer than all the others."})
    (_, row), _ = prepare(path)
    length = len(row.prompt) + max(len(response.ids) for response in row.responses)
    prompt = length - 2
    assert prepare(path, max_length=length, max_prompt_length=prompt)[1].dropped == {}
    assert prepare(path, max_length=length - 1, max_prompt_length=prompt)[1].dropped == {"response_too_long": 1}


def test_the_longest_prompt_that_is_kept_has_exactly_max_prompt_length_tokens(tmp_path, write):
    path = write(tmp_path / "a.jsonl", GOOD, {**OTHER, "prompt": "Name a number between one and a hundred."})
    (_, row), _ = prepare(path)
    length = len(row.prompt)
    assert prepare(path, max_prompt_length=length)[1].dropped == {}
    assert prepare(path, max_prompt_length=length - 1)[1].dropped == {"prompt_too_long": 1}


def test_a_source_of_which_no_row_is_left_is_refused_with_what_dropped_them(tmp_path, write):
    path = write(tmp_path / "a.jsonl", BAD["empty_chosen"], BAD["response_too_long"], BAD["response_too_long"])
    with pytest.raises(ValueError, match="no row is left") as error:
        prepare(path)
    assert f"{path} (text): 3 rows read, 0 kept" in str(error.value)
    assert "1 empty_chosen, 2 response_too_long" in str(error.value)
    *_, heading, first, second = str(error.value).splitlines()
    assert heading.endswith("raise data.max_length, or set data.overlong. The first of response_too_long:")
    assert "a.jsonl:2: response_too_long" in first
    assert "a.jsonl:3: response_too_long" in second


def test_a_source_of_no_known_format_is_refused_by_name(tmp_path, write):
    path = write(tmp_path / "a.jsonl", {"question": "Hi"})
    with pytest.raises(ValueError, match="no row is of a known format") as error:
        prepare(path)
    assert path in str(error.value)


def test_scores_arrive_as_margins(tmp_path, write):
    path = write(tmp_path / "a.jsonl", {**GOOD, "score_chosen": 3.0, "score_rejected": 1.5}, OTHER)
    assert [row.margin for row in prepare(path)[0]] == [1.5, None]


def test_reasons_stand_in_the_order_in_which_the_rules_ran(tmp_path, write):
    rows = [BAD["response_too_long"], GOOD, GOOD, BAD["identical_responses"], BAD["empty_chosen"], BAD["not_text"]]
    _, report = prepare(write(tmp_path / "a.jsonl", *rows), filters=[Duplicates()])
    assert list(report.dropped) == [
        "not_text",
        "empty_chosen",
        "identical_responses",
        "duplicates",
        "response_too_long",
    ]


class Shouting(Filter):
    """The chosen response is in capitals."""

    def __call__(self, row):
        return row.chosen is not None and row.chosen.isupper()


def test_filters_of_a_user_are_counted_under_their_names_and_every_dropped_row_is_listed(tmp_path, write):
    path = write(tmp_path / "a.jsonl", GOOD, {**GOOD, "chosen": "BLUE."}, GOOD, {**OTHER, "margin": 0.1})
    rows, report = prepare(path, filters=[Shouting(), Duplicates(), SmallMargin(0.5)])
    assert report.dropped == {"shouting": 1, "duplicates": 1, "small_margin": 1}
    assert [(row_id, reason) for row_id, reason, _ in report.dropped_rows] == [
        (f"{path}:2", "shouting"),
        (f"{path}:3", "duplicates"),
        (f"{path}:4", "small_margin"),
    ]
    assert report.dropped_rows[0][2] == "The chosen response is in capitals"
    assert report.read == 4 == len(rows) + report.dropped.total()


class Broken(Filter):
    """Fails in the place that it is told to."""

    def __init__(self, place):
        self.place = place

    def begin(self, validation_prompts):
        if self.place == "begin":
            raise KeyError("words")

    def __call__(self, row):
        return np.array([True, False]) if self.place == "verdict" else {}["words"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("begin", "a.jsonl: the filter broken failed: KeyError: 'words'"),
        ("call", "a.jsonl:1: the filter broken failed: KeyError: 'words'"),
        ("verdict", "a.jsonl:1: the filter broken failed: ValueError: The truth value of an array"),
    ],
)
def test_a_filter_that_fails_is_named_with_the_row(tmp_path, write, place, said):
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(ValueError, match="failed") as error:
        prepare(path, filters=[Broken(place)])
    assert str(error.value).startswith(str(tmp_path / said))


def test_reasons_of_several_splits_stand_in_the_order_in_which_the_rules_ran(capsys):
    reports = {
        "train": SplitReport("train", "a", "text", read=3, dropped=Counter(null=1, prompt_too_long=1)),
        "validation": SplitReport("validation", "b", "text", read=3, dropped=Counter(not_text=1, empty_chosen=1)),
        "other": SplitReport("other", "c", "text", read=3, dropped=Counter(null=1, empty_chosen=1, prompt_too_long=1)),
    }
    for width, asked in ((200, ["train", "other"]), (200, ["other", "train"]), (50, ["train"])):
        console = Console(width=width)
        print_reports({name: reports[name] for name in asked}, console)
        lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        expected = ["null", "empty_chosen", "prompt_too_long"]
        assert lines == [reason for reason in expected if any(reports[name].dropped[reason] for name in asked)]


fields = st.none() | st.integers() | st.floats() | st.text(max_size=12) | st.lists(st.text(max_size=3), max_size=2)
near_rows = st.builds(
    lambda row, changes: {**row, **changes},
    st.sampled_from([GOOD, OTHER]),
    st.dictionaries(
        st.sampled_from(["prompt", "chosen", "rejected", "margin", "weight", "system", "label", "messages"]),
        fields,
        max_size=3,
    ),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(near_rows, max_size=12),
    filters=st.lists(st.sampled_from([Duplicates, SharedPrompts, SmallMargin, Shouting]), unique=True),
    overlong=st.sampled_from(["drop", "truncate_prompt", "truncate_response"]),
    window=st.integers(20, 60),
    limit=st.none() | st.integers(1, 12),
)
def test_whatever_rows_and_rules_there_are_every_row_is_kept_or_counted(
    tmp_path_factory, write, rows, filters, overlong, window, limit
):
    path = write(tmp_path_factory.mktemp("rows") / "a.jsonl", GOOD, *rows)
    limits = {"overlong": overlong, "max_length": window, "max_prompt_length": window - 8}
    try:
        found, report = prepare(path, filters=[rule() for rule in filters], limit=limit, **limits)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert path in refusal
        return
    assert report.read == min(1 + len(rows), limit or 99) == report.kept + report.dropped.total()
    assert report.kept == len(found) > 0
    assert Counter(reason for _, reason, _ in report.dropped_rows) == report.dropped
    ids = [row.row_id for row in found] + [row_id for row_id, *_ in report.dropped_rows]
    assert sorted(ids) == sorted(f"{path}:{line}" for line in range(1, report.read + 1))
    for row in found:
        assert len(row.prompt) <= window - 8
        assert all(len(row.prompt) + len(response.ids) <= window for response in row.responses)
        assert all(response.ids for response in row.responses)


def test_prompts_of_validation_rows_can_be_kept_out_of_training(tmp_path, write):
    validation, _ = prepare(write(tmp_path / "val.jsonl", OTHER), "validation", filters=[SharedPrompts()])
    path = write(tmp_path / "a.jsonl", GOOD, {**OTHER, "chosen": "Eight."})
    _, report = prepare(path, filters=[SharedPrompts()], validation_prompts=validation.prompt_keys)
    assert report.dropped == {"shared_prompts": 1}
    # the same rule over the same rows with other validation data is another question
    assert prepare(path, filters=[SharedPrompts()])[1].dropped == {}


def test_of_a_limited_source_the_first_rows_are_read(tmp_path, write):
    _, report = prepare(write(tmp_path / "a.jsonl", GOOD, BAD["empty_chosen"], OTHER, OTHER), limit=3)
    assert (report.read, report.kept, dict(report.dropped)) == (3, 2, {"empty_chosen": 1})


def test_columns_of_other_names_are_read_where_they_are_mapped(tmp_path, write):
    path = write(tmp_path / "a.jsonl", {"question": "Hi", "chosen": "Hello!", "rejected": "What?"})
    rows, _ = prepare(path, columns={"prompt": "question"})
    assert len(rows) == 1
    with pytest.raises(ValueError, match=r"data\.columns names the column 'query', which no row has"):
        prepare(write(tmp_path / "b.jsonl", GOOD), columns={"system": "query"})


def test_a_format_that_is_forced_is_read_or_refused(tmp_path, write):
    path = write(tmp_path / "a.jsonl", *[GOOD] * (FEW_UNREADABLE + 1))
    with pytest.raises(
        ValueError, match=r"11 of 11 rows cannot be read in the format 'sharegpt', more than 10%"
    ) as error:
        prepare(path, row_format="sharegpt")
    assert f"{path}:1: missing_column: there is no 'conversations'; there is prompt, chosen, rejected" in str(
        error.value
    )


@pytest.mark.parametrize(("bad", "refused"), [(FEW_UNREADABLE, False), (FEW_UNREADABLE + 1, True)])
def test_a_source_with_too_many_unreadable_rows_is_refused_with_examples(tmp_path, write, bad, refused):
    path = write(tmp_path / "a.jsonl", *[GOOD] * 50, *[{**GOOD, "chosen": 5}] * bad)
    if not refused:
        assert prepare(path)[1].dropped == {"not_text": bad}
        return
    with pytest.raises(ValueError, match=f"{bad} of {50 + bad} rows cannot be read in the format 'text'") as error:
        prepare(path)
    assert f"{path}:51: not_text: 'chosen' is int, not text" in str(error.value)
    assert "data.columns" in str(error.value)


def test_a_share_of_unreadable_rows_below_the_stated_one_is_counted(tmp_path, write):
    path = write(tmp_path / "a.jsonl", *[GOOD] * 180, *[{**GOOD, "chosen": 5}] * 20)
    assert prepare(path)[1].dropped == {"not_text": 20}


def test_sides_that_answer_different_prompts_in_most_rows_are_refused(tmp_path, write):
    rows = [{side: f"\n\nHuman: {side} {i}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for i in range(20)]
    with pytest.raises(
        ValueError, match=r"20 of 20 rows cannot be read .*\n.*different_prompts: chosen and rejected do not"
    ):
        prepare(write(tmp_path / "a.jsonl", *rows))


@pytest.mark.parametrize(
    ("overlong", "dropped", "truncated"),
    [
        ("drop", {"prompt_too_long": 1, "response_too_long": 1}, {}),
        ("truncate_prompt", {"response_too_long": 1}, {"prompt": 1}),
        ("truncate_response", {"prompt_too_long": 1}, {"response": 1}),
    ],
)
def test_a_row_that_is_cut_is_kept_and_marked(tmp_path, write, overlong, dropped, truncated):
    path = write(tmp_path / "a.jsonl", GOOD, BAD["prompt_too_long"], BAD["response_too_long"])
    rows, report = prepare(path, overlong=overlong, max_length=100, max_prompt_length=50)
    assert (report.dropped, report.truncated) == (dropped, truncated)
    assert report.read == 3 == len(rows) + report.dropped.total()
    # its chosen response is short
    assert report.without_end == truncated.get("response", 0)
    assert report.responses == 2 * len(rows)
    assert report.first_without_end == (f"{path}:3" if report.without_end else None)


def test_a_row_that_is_too_long_ends_the_run_where_that_is_asked_for(tmp_path, write):
    with pytest.raises(ValueError, match=r"a\.jsonl:2: the prompt has .*data\.overlong is error"):
        prepare(write(tmp_path / "a.jsonl", GOOD, BAD["prompt_too_long"]), overlong="error")


def test_the_report_describes_the_rows_that_are_kept(tmp_path, write):
    rows = [
        {"prompt": "Hi", "chosen": "aaaa aaaa", "rejected": "b", "margin": 2.0},
        {"prompt": "Hi", "chosen": "c", "rejected": "dddd dddd", "weight": 0.5},
        {"prompt": "Ho", "chosen": "eeee eeee", "rejected": "eeee"},
        {"prompt": "Ho", "chosen": "eeee eeee", "rejected": "eeee"},
    ]
    table, report = prepare(write(tmp_path / "a.jsonl", *rows))
    assert report.longer_is_chosen == 0.75
    assert (report.duplicates, report.prefix_pairs, report.scored, report.weighted) == (1, 2, 1, 1)
    assert report.tokens == sum(row.num_tokens for row in table)
    lengths = [len(row.responses[0].ids) for row in table]
    assert report.lengths["chosen"]["max"] == max(lengths)
    assert report.lengths["chosen"]["min"] == min(lengths)
    assert set(report.lengths) == {"prompt", "chosen", "rejected"}


def test_unpaired_rows_arrive_with_their_labels(tmp_path, write):
    rows = [
        {"prompt": "Hi", "completion": text, "label": label} for text, label in (("a", True), ("b", False), ("", True))
    ]
    table, report = prepare(write(tmp_path / "a.jsonl", *rows, {**rows[0], "weight": 3}))
    assert report.dropped == {"empty_response": 1}
    assert report.desirable == pytest.approx(2 / 3)
    assert [(row.responses[0].role, row.responses[0].label, row.weight) for row in table] == [
        (Role.UNPAIRED, 1.0, 1.0),
        (Role.UNPAIRED, 0.0, 1.0),
        (Role.UNPAIRED, 1.0, 3.0),
    ]


# the counts of the data sets' own description
@pytest.mark.parametrize(
    ("name", "split", "row_format", "read", "dropped"),
    [
        ("hh_rlhf", "train", "hh_rlhf", 2000, {"different_prompts": 4, "empty_chosen": 4}),
        ("hh_rlhf", "validation", "hh_rlhf", 312, {"different_prompts": 1}),
        # the rejected answers of the rows 646, 1748 and 5327 are empty strings
        slow("gpt4_pairs", "train", "messages", 6000, {"empty_rejected": 3}),
        ("gpt4_pairs", "validation", "messages", 600, {}),
        ("sharegpt", "train", "sharegpt", 300, {}),
        ("kto", "train", "unpaired", 300, {}),
    ],
)
def test_every_row_of_the_real_data_is_accounted_for(real_data, name, split, row_format, read, dropped):
    tokenizer = load_tokenizer("tiny")
    table, report = Preparation(tokenizer, NO_LIMIT).prepare(SourceConfig(str(real_data / name)), split)
    assert (report.format, report.read, dict(report.dropped)) == (row_format, read, dropped)
    assert report.kept == len(table) == read - sum(dropped.values())
    assert len(report.dropped_rows) == sum(dropped.values())
    assert report.without_end == 0
    end = end_of_turn(tokenizer)
    assert all(
        response.ids.count(end) == 1 == response.ids[-1:].count(end) for row in table for response in row.responses
    )


@pytest.mark.parametrize("overlong", [slow("drop"), "truncate_prompt", slow("truncate_response")])
@pytest.mark.parametrize("name", ["hh_rlhf", "gpt4_pairs", "sharegpt", "kto"])
def test_the_accounts_of_the_real_data_add_up_under_every_policy(real_data, name, overlong):
    limits = LengthLimits(256, 128, overlong)
    how = Preparation(load_tokenizer("tiny"), limits, limit=1000)
    table, report = how.prepare(SourceConfig(str(real_data / name)), "train")
    assert report.read == report.kept + report.dropped.total() == len(table) + len(report.dropped_rows)
    assert (report.truncated.total() > 0) is (overlong != "drop")
    assert max(len(row.prompt) for row in table) <= 128


def test_a_column_that_is_not_there_is_found_out_also_under_a_limit(tmp_path, write):
    with pytest.raises(ValueError, match="names the column 'query', which no row has"):
        prepare(write(tmp_path / "b.jsonl", GOOD, GOOD), columns={"system": "query"}, limit=1)


def test_numbers_that_no_float_holds_are_counted(tmp_path, write):
    _, report = prepare(write(tmp_path / "a.jsonl", GOOD, {**GOOD, "margin": 10**400}))
    assert report.dropped == {"not_a_number": 1}
