"""From a file to tokenized rows: what is read, what is dropped, and that nothing goes missing between the two."""

import gzip
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from orpo_lightning.data.preparation import SplitReport, prepare_split
from orpo_lightning.data.sources import read_rows

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"the shared data sets are not at {REAL_DATA}")

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
OTHER = {"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Blue."}


@pytest.fixture(autouse=True)
def _own_dataset_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prepare(source, max_length=1000, max_prompt_length=900, split="train"):
    return prepare_split(split, str(source), "tiny", max_length, max_prompt_length)


def write_json_lines(path, rows):
    write(path, *rows)


def write_json_array(path, rows):
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def write_gzip(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_parquet(path, rows):
    datasets.Dataset.from_list(rows).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "write_file"),
    [
        ("a.jsonl", write_json_lines),
        ("a.json", write_json_array),
        ("a.json", write_json_lines),
        ("a.jsonl.gz", write_gzip),
        ("a.json.gz", write_gzip),
        ("a.parquet", write_parquet),
    ],
)
def test_every_kind_of_file_gives_the_same_rows_in_order(tmp_path, name, write_file):
    path = tmp_path / name
    write_file(path, [GOOD, OTHER])
    assert list(read_rows(str(path), "train")) == [(f"{path}:1", GOOD), (f"{path}:2", OTHER)]


def test_a_file_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", GOOD)
    assert list(read_rows("~/a.jsonl", "train")) == [("~/a.jsonl:1", GOOD)]


def test_text_in_any_script_arrives_unchanged(tmp_path):
    row = {**GOOD, "chosen": "größer, 猫, 🐈\u200d⬛, \u0000"}
    ((_, read),) = read_rows(write(tmp_path / "a.jsonl", row), "train")
    assert read == row


def test_a_changed_file_is_read_anew(tmp_path):
    list(read_rows(write(tmp_path / "a.jsonl", GOOD), "train"))
    assert [row for _, row in read_rows(write(tmp_path / "a.jsonl", OTHER, GOOD), "train")] == [OTHER, GOOD]


@pytest.mark.parametrize(("split", "rows"), [("train", 64), ("validation", 16)])
def test_the_sample_has_two_splits(split, rows):
    ids = [row_id for row_id, _ in read_rows("sample", split)]
    assert ids == [f"sample/{split}:{number + 1}" for number in range(rows)]


def test_the_splits_of_the_sample_have_no_prompt_in_common():
    train, validation = ({row["prompt"] for _, row in read_rows("sample", split)} for split in ("train", "validation"))
    assert not train & validation


def test_no_row_of_the_sample_is_dropped():
    rows, report = prepare("sample")
    assert str(report) == "train: sample (text): 64 rows read, 64 kept, dropped: none"
    assert len(rows) == 64


@pytest.mark.parametrize("name", ["none.jsonl", "none", "folder"])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no file at") as error:
        list(read_rows(str(tmp_path / name), "train"))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "jsonl", "a.jsonl.zip"])
def test_an_unknown_kind_of_file_is_refused_with_those_that_are_known(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.json, \.jsonl, \.json\.gz, \.jsonl\.gz, \.parquet") as error:
        list(read_rows(write(tmp_path / name, GOOD), "train"))
    assert str(tmp_path / name) in str(error.value)


def test_a_file_of_broken_json_is_refused_by_name(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + '\n{"prompt": \n', encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read as json") as error:
        list(read_rows(str(path), "train"))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n\n"),
        ("a.json", "[]"),
    ],
)
def test_a_file_without_rows_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="holds no rows") as error:
        list(read_rows(str(tmp_path / name), "train"))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("neither gzip nor parquet")
    with pytest.raises(ValueError, match="cannot be read as") as error:
        list(read_rows(str(tmp_path / name), "train"))
    assert str(tmp_path / name) in str(error.value)


def test_a_file_name_is_a_name_and_not_a_pattern(tmp_path):
    write(tmp_path / "a1.jsonl", OTHER)  # what the pattern would find
    ((row_id, row),) = read_rows(write(tmp_path / "a[1].jsonl", GOOD), "train")
    assert (row_id, row) == (f"{tmp_path / 'a[1].jsonl'}:1", GOOD)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[ ]", "holds no rows"),
        ("a.jsonl.gz", gzip.compress(b""), "holds no rows"),
        ("a.jsonl", b"\n" * 1500 + b"{broken", "cannot be read as json"),
    ],
    ids=["spaced", "gzipped", "broken after blank lines"],
)
def test_a_file_without_rows_is_told_from_a_broken_one(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        list(read_rows(str(tmp_path / name), "train"))


BAD = {
    "empty_chosen": {**GOOD, "chosen": " \n"},
    "empty_rejected": {**GOOD, "rejected": ""},
    "identical_responses": {**GOOD, "rejected": GOOD["chosen"]},
    "not_text": {**GOOD, "chosen": None},
    "prompt_too_long": {**GOOD, "prompt": "long " * 1000},
    "response_too_long": {**GOOD, "rejected": "long " * 1000},
}


def test_a_bad_first_row_does_not_hide_the_format(tmp_path):
    rows, report = prepare(write(tmp_path / "a.jsonl", {**GOOD, "chosen": None}, GOOD))
    assert report.format == "text"
    assert report.dropped == {"not_text": 1}
    assert len(rows) == 1


@pytest.mark.parametrize("reason", BAD)
def test_a_dropped_row_is_counted_under_its_reason(tmp_path, reason):
    rows, report = prepare(write(tmp_path / "a.jsonl", GOOD, BAD[reason], OTHER))
    assert report.dropped == {reason: 1}
    assert [row.row_id.rpartition(":")[2] for row in rows] == ["1", "3"]


def test_a_row_with_two_faults_is_counted_once(tmp_path):
    _, report = prepare(write(tmp_path / "a.jsonl", GOOD, {**GOOD, "chosen": "", "rejected": ""}))
    assert report.dropped == {"empty_chosen": 1}


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([None, *BAD]), max_size=12))
def test_every_row_read_is_either_kept_or_counted(tmp_path_factory, faults):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    rows, report = prepare(write(path, GOOD, *(BAD.get(fault, OTHER) for fault in faults)))
    assert report.read == 1 + len(faults)
    assert report.kept == len(rows) == 1 + faults.count(None)
    assert report.dropped == Counter(fault for fault in faults if fault)


def test_the_report_says_what_became_of_the_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD, BAD["empty_chosen"], BAD["not_text"], BAD["not_text"])
    _, report = prepare(path, split="validation")
    said = "4 rows read, 1 kept, dropped: 1 empty_chosen, 2 not_text"
    assert str(report) == f"validation: {path} (text): {said}"


def test_large_counts_are_readable():
    report = SplitReport("train", "a.jsonl", "text", read=12345, kept=12000, dropped=Counter(empty_chosen=345))
    assert str(report) == "train: a.jsonl (text): 12,345 rows read, 12,000 kept, dropped: 345 empty_chosen"


@pytest.mark.parametrize("longer", ["chosen", "rejected"])
def test_the_longest_conversation_that_is_kept_has_exactly_max_length_tokens(tmp_path, longer):
    path = write(tmp_path / "a.jsonl", GOOD, {**OTHER, longer: "A much longer answer than all the others."})
    (_, row), _ = prepare(path)
    length = len(row.prompt) + max(len(response.ids) for response in row.responses)
    assert prepare(path, max_length=length)[1].dropped == {}
    assert prepare(path, max_length=length - 1)[1].dropped == {"response_too_long": 1}


def test_the_longest_prompt_that_is_kept_has_exactly_max_prompt_length_tokens(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD, {**OTHER, "prompt": "Name a number between one and a hundred."})
    (_, row), _ = prepare(path)
    length = len(row.prompt)
    assert prepare(path, max_prompt_length=length)[1].dropped == {}
    assert prepare(path, max_prompt_length=length - 1)[1].dropped == {"prompt_too_long": 1}


def test_a_source_of_which_no_row_is_left_is_refused_with_what_dropped_them(tmp_path):
    path = write(tmp_path / "a.jsonl", BAD["empty_chosen"], BAD["response_too_long"], BAD["response_too_long"])
    with pytest.raises(ValueError, match="no row is left") as error:
        prepare(path)
    assert f"{path} (text): 3 rows read, 0 kept" in str(error.value)
    assert "1 empty_chosen, 2 response_too_long" in str(error.value)


def test_a_source_of_no_known_format_is_refused_by_name(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "Hi"})
    with pytest.raises(ValueError, match="no row is of a known format") as error:
        prepare(path)
    assert path in str(error.value)


def test_scores_arrive_as_margins(tmp_path):
    path = write(tmp_path / "a.jsonl", {**GOOD, "score_chosen": 3.0, "score_rejected": 1.5}, OTHER)
    assert [row.margin for row in prepare(path)[0]] == [1.5, None]


def real_reports(*names):
    """The reports of real files, prepared without a limit on length."""
    return [prepare(REAL_DATA / name, max_length=10**6, max_prompt_length=10**6)[1] for name in names]


# the counts of the data sets' own description
@needs_real_data
def test_of_the_real_hh_rlhf_rows_the_broken_ones_are_dropped():
    reports = real_reports("hh_rlhf/train.jsonl.gz", "hh_rlhf/test.jsonl.gz")
    assert [report.format for report in reports] == ["hh_rlhf", "hh_rlhf"]
    assert [report.read for report in reports] == [2000, 312]
    assert sum((report.dropped for report in reports), Counter()) == {"empty_chosen": 4, "different_prompts": 5}
    assert sum(report.kept for report in reports) == 2312 - 4 - 5


@needs_real_data
def test_of_the_real_gpt4_pairs_those_without_a_rejected_response_are_dropped():
    reports = real_reports("gpt4_pairs/train_prefs.parquet", "gpt4_pairs/test_prefs.parquet")
    assert [report.format for report in reports] == ["messages", "messages"]
    assert [report.read for report in reports] == [6000, 600]
    # the rejected answers of the rows 646, 1748 and 5327 are empty strings
    assert [report.dropped for report in reports] == [{"empty_rejected": 3}, {}]
    assert sum(report.kept for report in reports) == 6600 - 3
