"""val_pairs.csv: written whole or not at all, read back to the last digit, cut where a run goes on."""

import os

import pytest

from orpo_lightning.summary.pairs import PairMeasures, cut_pairs, read_pairs, write_pairs


def pair(step, row_id="a:1", name="", chosen=-2.0, rejected=-2.5):
    return PairMeasures(step, name, row_id, chosen, rejected, 3 * chosen, 2 * rejected, 3, 2)


def test_values_are_read_back_to_the_last_digit(tmp_path):
    pairs = [pair(0, 'a,"b":1', chosen=-1 / 3), pair(0, "lines\nof text:2", rejected=-1e-17), pair(0, "ü:3", "helpful")]
    write_pairs(tmp_path / "val_pairs.csv", 0, pairs)
    assert read_pairs(tmp_path / "val_pairs.csv") == pairs


def test_the_columns_are_those_that_other_programs_rely_on(tmp_path):
    write_pairs(tmp_path / "val_pairs.csv", 4, [pair(4)])
    assert (tmp_path / "val_pairs.csv").read_text().splitlines() == [
        "step,set,row_id,chosen_mean,rejected_mean,chosen,rejected,chosen_tokens,rejected_tokens,weight,content",
        "4,,a:1,-2.0,-2.5,-6.0,-5.0,3,2,1.0,",
    ]


def test_a_file_of_an_older_version_is_read_and_written_on(tmp_path):
    path = tmp_path / "val_pairs.csv"
    path.write_text(
        "step,set,row_id,chosen_mean,rejected_mean,chosen,rejected,chosen_tokens,rejected_tokens,weight\n"
        "0,,a:1,-2.0,-2.5,-6.0,-5.0,3,2,1.0\n"
    )
    assert read_pairs(path) == [pair(0)]
    newer = PairMeasures(**vars(pair(4)) | {"content": "0123456789abcdef"})
    write_pairs(path, 4, [newer])
    assert read_pairs(path) == [pair(0), newer]


@pytest.mark.parametrize(("rejected", "accuracy"), [(-2.5, 1.0), (-2.0, 0.5), (-1.5, 0.0)])
def test_a_tie_counts_half(rejected, accuracy):
    assert pair(0, rejected=rejected).accuracy == accuracy


def test_a_validation_replaces_that_of_its_step_and_later_ones(tmp_path):
    path = tmp_path / "val_pairs.csv"
    for step in (0, 5, 10):
        write_pairs(path, step, [pair(step)])
    write_pairs(path, 5, [pair(5, "again:1")])
    assert [(each.step, each.row_id) for each in read_pairs(path)] == [(0, "a:1"), (5, "again:1")]


def test_a_run_that_goes_on_keeps_the_validations_up_to_its_step(tmp_path):
    path = tmp_path / "val_pairs.csv"
    for step in (0, 9, 10, 11):
        write_pairs(path, step, [pair(step)])
    cut_pairs(path, 10)
    assert [each.step for each in read_pairs(path)] == [0, 9, 10]
    before = path.stat().st_mtime_ns
    cut_pairs(path, 10)
    assert path.stat().st_mtime_ns == before


def test_without_a_file_there_are_no_pairs_and_nothing_to_cut(tmp_path):
    cut_pairs(tmp_path / "val_pairs.csv", 3)
    assert read_pairs(tmp_path / "val_pairs.csv") == []
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "val_pairs.csv"
    write_pairs(path, 0, [pair(0)])
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        write_pairs(path, 1, [pair(1)])
    assert read_pairs(path) == [pair(0)]


@pytest.mark.parametrize("text", ["step,loss\n1,2\n", "step,set,row_id,chosen_mean\n1,,a:1,high\n"])
def test_a_file_of_another_kind_is_named(tmp_path, text):
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(ValueError, match=r"other\.csv cannot be read as the validation pairs"):
        read_pairs(tmp_path / "other.csv")
