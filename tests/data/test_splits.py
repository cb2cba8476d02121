"""Mixtures for training, and validation sets by name."""

import pytest

from orpo_lightning import PreferenceDataModule, SourceConfig
from orpo_lightning.data.filters import SharedPrompts
from orpo_lightning.data.splits import Mixture, draw
from orpo_lightning.testing import make_rows


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0, 1.5, 2.0, 3.75])
def test_a_weight_is_how_often_an_epoch_goes_over_the_rows(weight):
    drawn = draw(100, weight, "seed")
    assert len(drawn) == round(100 * weight)
    times = [drawn.count(i) for i in range(100)]
    assert set(times) <= {int(weight), int(weight) + 1}


def test_what_is_drawn_is_a_function_of_the_seed():
    assert draw(100, 0.5, "0 1") == draw(100, 0.5, "0 1") != draw(100, 0.5, "1 1")


def test_a_mixture_is_its_sources_one_after_the_other():
    first, second = make_rows(4, seed=1), make_rows(3, seed=2)
    mixture = Mixture([(first, [0, 2]), (second, []), (second, [1, 1, 2])])
    expected = [first[0], first[2], second[1], second[1], second[2]]
    assert list(mixture) == expected == mixture[:]
    assert (len(mixture), mixture[-1], mixture[1:3]) == (5, expected[-1], expected[1:3])
    for index in (5, -6):
        with pytest.raises(IndexError):
            mixture[index]


def pairs(count, start=0):
    return [{"prompt": f"Say {i}.", "chosen": f"{i}.", "rejected": "No."} for i in range(start, start + count)]


def data(train, val, **options):
    module = PreferenceDataModule(train=train, val=val, tokenizer="tiny", **options)
    module.setup("fit")
    return module


def test_a_weighted_list_is_a_mixture_and_is_reported_by_source(tmp_path, write_rows):
    a, b = write_rows(tmp_path / "a.jsonl", *pairs(8)), write_rows(tmp_path / "b.jsonl", *pairs(4, 100))
    module = data([SourceConfig(a, weight=0.5), b, SourceConfig(b, weight=2.0)], None)
    rows = module.rows["train"]
    assert len(rows) == 4 + 4 + 8
    assert [name for name in module.reports] == ["train/1", "train/2", "train/3"]
    assert [(report.kept, report.used) for report in module.reports.values()] == [(8, 4), (4, 4), (4, 8)]
    assert {row.row_id.rpartition(":")[0] for row in rows[:4]} == {a}
    assert {row.row_id for row in rows[:4]} < {f"{a}:{i + 1}" for i in range(8)}


def test_a_weight_that_takes_no_row_is_refused(tmp_path, write_rows):
    a = write_rows(tmp_path / "a.jsonl", *pairs(4))
    with pytest.raises(ValueError, match=r"the weight 0\.01 takes none of the 4 rows of .*; accepted: 0\.25 or more"):
        data([SourceConfig(a, weight=0.01), "sample"], None)


def test_validation_sets_have_the_names_that_they_are_given(tmp_path, write_rows):
    a, b = write_rows(tmp_path / "a.jsonl", *pairs(3)), write_rows(tmp_path / "b.jsonl", *pairs(2, 100))
    module = data("sample", {"first": a, "second": SourceConfig(b)})
    assert {name: len(rows) for name, rows in module.rows.items()} == {
        "train": 250,
        "validation/first": 3,
        "validation/second": 2,
    }
    assert module.val_names == ("first", "second")
    assert data("sample", a).val_names == ("",)
    assert data("sample", None).val_names == ()


def test_prompts_that_training_and_validation_share_are_counted(tmp_path, write_rows):
    a, b = write_rows(tmp_path / "a.jsonl", *pairs(6)), write_rows(tmp_path / "b.jsonl", *pairs(4, 4))
    reports = data(a, b).reports
    assert [(report.shared_prompts, report.first_shared) for report in reports.values()] == [(2, None), (2, f"{b}:1")]
    assert [report.shared_prompts for report in data(a, b, filters=[SharedPrompts()]).reports.values()] == [0, 0]


def test_of_a_validation_prompt_counts_whether_it_is_trained_on_and_not_whether_a_source_has_it(tmp_path, write_rows):
    a, b = write_rows(tmp_path / "a.jsonl", *pairs(8)), write_rows(tmp_path / "b.jsonl", *pairs(8))
    half = data(SourceConfig(a, weight=0.5), {"own": b, "sample": "sample"})
    assert [report.shared_prompts for report in half.reports.values()] == [8, 4, 0]
    prompts = {row.prompt for row in half.rows["train"]}
    shared = [row.row_id for row in half.rows["validation/own"] if row.prompt in prompts]
    assert len(shared) == 4
    assert half.reports["validation/own"].first_shared == shared[0]


def test_format_and_columns_of_all_sources_give_way_to_those_of_one(tmp_path, write_rows):
    a = write_rows(tmp_path / "a.jsonl", *({"question": row["prompt"], **row} for row in pairs(2)))
    own = SourceConfig(a, columns={"prompt": "prompt"})
    module = PreferenceDataModule(train=[a, own], val=None, format="text", columns={"prompt": "question"})
    assert [source.columns for source in module.train] == [{"prompt": "question"}, {"prompt": "prompt"}]
    assert [source.format for source in module.train] == ["text", "text"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": []}, r"data\.train is an empty list"),
        ({"val": SourceConfig("sample", weight=2.0)}, r"data\.val: sample has a weight"),
        ({"limit": 0}, r"data\.limit = 0 is out of range; accepted: 1 or more"),
        ({"columns": {"promt": "x"}}, r"'promt' is not a column; did you mean 'prompt'\?"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        PreferenceDataModule(**options)
