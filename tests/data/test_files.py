"""Files: every kind gives the same rows, and what is broken is named with its place."""

import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from orpo_lightning.data.files import digest_of_files, read_file

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
OTHER = {"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Blue."}
LINE = json.dumps(GOOD).encode() + b"\n"


def rows_of(path, content):
    path.write_bytes(content)
    return list(read_file(path, path.name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows_in_order(tmp_path, write_rows, name):
    write_rows(tmp_path / name, GOOD, OTHER)
    assert list(read_file(tmp_path / name, "here/" + name)) == [(f"here/{name}:1", GOOD), (f"here/{name}:2", OTHER)]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n \n", b"  "], ids=["plain", "BOM", "blank lines", "space"])
def test_json_files_may_hold_lines_or_a_list_and_begin_with_space(tmp_path, start):
    for content in (LINE, json.dumps([GOOD], indent=1).encode()):
        assert [row for _, row in rows_of(tmp_path / "a.json", start + content)] == [GOOD]


def test_a_row_is_named_by_its_line_also_after_blank_ones(tmp_path):
    found = rows_of(tmp_path / "a.jsonl", b"\n" + LINE + b"\n\n" + LINE)
    assert [row_id for row_id, _ in found] == ["a.jsonl:2", "a.jsonl:5"]


def test_text_in_any_script_arrives_unchanged(tmp_path):
    row = {**GOOD, "chosen": "größer, 猫, 🐈\u200d⬛, \u0000, \u2028"}
    for ascii_only in (True, False):
        line = json.dumps(row, ensure_ascii=ascii_only).encode()
        assert [found for _, found in rows_of(tmp_path / "a.jsonl", line)] == [row]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n\n"),
        ("a.json", b"[]"),
        ("a.json", b"[ ]\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.parquet", b""),
    ],
)
def test_a_file_without_rows_is_refused_by_name(tmp_path, name, content):
    with pytest.raises(ValueError, match=f"^{name}: holds no rows$"):
        rows_of(tmp_path / name, content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", LINE + b'{"prompt": \n', r"a\.jsonl:2: not valid JSON \(Expecting value, column"),
        ("a.jsonl", b"\n" * 1500 + b"{broken", r"a\.jsonl:1501: not valid JSON"),
        ("a.json", b'[{"prompt": "Hi"},\n{"prompt" 5}]', r"a\.json: not valid JSON \(Expecting ':' delimiter, line 2"),
        ("a.json", b'{\n"prompt": "Hi"\n}', r"a\.json:1: not valid JSON .*one object per line or one list"),
        ("a.jsonl", LINE + b'{"prompt": "\xff"}\n', r"a\.jsonl:2: not text in UTF-8 \(byte 13: invalid start byte\)"),
        ("a.jsonl", bytes(range(128, 256)) * 20, r"a\.jsonl:1: not text in UTF-8"),
        ("a.jsonl", LINE + b"[1, 2]\n", r"a\.jsonl:2: a row is an object with columns, but this is list"),
        ("a.jsonl", b'"text"\n', r"a\.jsonl:1: a row is an object with columns, but this is str"),
        ("a.json", b'[{"prompt": "Hi"}, null]', r"a\.json:2: a row is an object with columns, but this is NoneType"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl: not valid JSON \(nested too deeply\)"),
        (
            "a.jsonl.gz",
            gzip.compress(LINE * 5000, mtime=0)[:-20],
            r"a\.jsonl\.gz: the gzip file is broken or cut off after line",
        ),
        ("a.jsonl", LINE + b'{"margin": ' + b"9" * 5000 + b"}", r"a\.jsonl:2: not valid JSON \(Exceeds the limit"),
        ("a.jsonl.gz", LINE, r"a\.jsonl\.gz: the gzip file is broken or cut off after line 0"),
        ("a.parquet", LINE, r"a\.parquet: cannot be read as parquet after row 0"),
        ("a.csv", LINE, r"a\.csv: the file's kind is not known; accepted: \.json, \.jsonl, .*\.parquet"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        rows_of(tmp_path / name, content)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string()), "'utf-8' codec can't decode"),
        (pyarrow.array([10**15], pyarrow.timestamp("ms")), "out of range"),
    ],
    ids=["text", "time"],
)
def test_parquet_values_that_python_cannot_hold_are_refused_by_file_and_row(tmp_path, column, said):
    table = pyarrow.table({"prompt": ["Hi"], "chosen": ["a"], "rejected": ["b"], "other": column})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"^a\.parquet: cannot be read as parquet after row 0: .*({said})"):
        list(read_file(tmp_path / "a.parquet", "a.parquet"))


def test_a_parquet_column_of_a_name_that_another_has_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["chosen", "chosen"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="'chosen' more than once"):
        list(read_file(tmp_path / "a.parquet", "a.parquet"))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.binary(max_size=30).map(lambda bytes_: LINE + bytes_), zipped=st.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused_by_name(tmp_path, content, zipped):
    name = "a.jsonl.gz" if zipped else "a.jsonl"
    try:
        found = rows_of(tmp_path / name, gzip.compress(content, mtime=0)[: len(content) + 20] if zipped else content)
    except ValueError as error:
        found = error
    if isinstance(found, ValueError):
        assert str(found).startswith(name)
    else:
        assert all(isinstance(row, dict) for _, row in found)


def test_a_digest_is_of_the_content_and_the_name_and_of_nothing_else(tmp_path, write_rows):
    write_rows(tmp_path / "a.jsonl", GOOD)
    digest = digest_of_files([tmp_path / "a.jsonl"])
    os.utime(tmp_path / "a.jsonl", (0, 0))
    write_rows(tmp_path / "elsewhere" / "a.jsonl", GOOD)
    assert digest_of_files([tmp_path / "a.jsonl"]) == digest == digest_of_files([tmp_path / "elsewhere" / "a.jsonl"])
    write_rows(tmp_path / "b.jsonl", GOOD)
    write_rows(tmp_path / "a.jsonl", OTHER)
    assert len({digest, digest_of_files([tmp_path / "a.jsonl"]), digest_of_files([tmp_path / "b.jsonl"])}) == 3


def test_what_is_said_of_a_parquet_file_with_a_byte_too_many_is_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "{}", "chosen": "a", "rejected": None}]), path)
    path.write_bytes(b"\0" + path.read_bytes())
    with pytest.raises(ValueError, match=r"^a\.parquet: cannot be read as parquet after row 0: ") as refusal:
        list(read_file(path, "a.parquet"))
    assert "\n" not in str(refusal.value)
