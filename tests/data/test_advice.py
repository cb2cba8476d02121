"""What the account of the data gives reason to change is said with its numbers, its first row and what to do."""

import pytest

from orpo_lightning import PreferenceDataModule
from orpo_lightning.data.advice import MANY_WITHOUT_END
from orpo_lightning.data.filters import SharedPrompts


def row(i, chosen="Yes.", prompt="Is it {}?"):
    return {"prompt": prompt.format(i), "chosen": chosen, "rejected": "No."}


@pytest.fixture
def advice(tmp_path, write_rows):
    """The sentences on training and validation data of such rows."""

    def on(train, val=None, **options):
        train = write_rows(tmp_path / "train.jsonl", *train)
        val = val and write_rows(tmp_path / "val.jsonl", *val)
        data = PreferenceDataModule(train=train, val=val, tokenizer="tiny", max_length=64, **options)
        data.setup("fit")
        return [sentence.replace(f"{tmp_path}/", "") for sentence in data.advice()]

    return on


def test_data_of_which_nothing_is_to_be_said_has_none(advice):
    assert advice(map(row, range(8)), map(row, range(8, 12))) == []


def test_responses_without_an_end_are_said_from_a_share_on(advice):
    rows = [row(i) for i in range(20)]
    rows[3] = row(3, chosen="yes " * 100)
    few = 1 / 40
    assert few < MANY_WITHOUT_END
    assert advice(rows, overlong="truncate_response") == []
    rows[7:9] = row(7, chosen="yes " * 100), row(8, chosen="yes, " * 100)
    (sentence,) = advice(rows, overlong="truncate_response")
    assert sentence.startswith("3 of the 40 responses of train (8%, first train.jsonl:4) are cut and lack the token")
    assert sentence.endswith("raise data.max_length (64), or drop such rows: data.overlong = drop")


def test_cut_responses_of_validation_teach_nothing_and_are_not_said(advice):
    long = [row(i, chosen="yes " * 100) for i in range(4)]
    assert advice(map(row, range(8, 12)), long, overlong="truncate_response") == []


def test_validation_prompts_that_are_trained_on_are_said_with_the_filter_that_helps(advice):
    train, val = [row(i) for i in range(8)], [row(i, chosen="Perhaps.") for i in range(6, 10)]
    (sentence,) = advice(train, val)
    assert sentence == (
        "2 of the 4 rows of validation (50%, first val.jsonl:1) have a prompt that is trained on: it measures what was "
        "trained on. Drop the training rows with these prompts: data.filters = [SharedPrompts]"
    )
    assert advice(train, val, filters=[SharedPrompts()]) == []
