"""Sources: what a path, a folder, a short name or a hub id stands for."""

import os
import shutil
from collections import Counter
from difflib import SequenceMatcher

import pytest

from orpo_lightning.data.files import KINDS
from orpo_lightning.data.sources import SHORT_NAMES, SourceConfig, columns_of, open_source

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
OTHER = {"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Blue."}


def ids(path, stage="train", **options):
    return [row_id for row_id, _ in open_source(SourceConfig(str(path), **options), stage).read()]


@pytest.mark.parametrize(("split", "rows"), [("train", 250), ("validation", 40)])
def test_the_sample_has_two_splits(split, rows):
    assert ids("sample", split) == [f"sample/{split}:{number + 1}" for number in range(rows)]


def sample(split):
    return [row for _, row in open_source(SourceConfig("sample"), split).read()]


def test_no_prompt_of_the_sample_comes_twice_or_in_both_splits():
    prompts = [" ".join(row["prompt"].lower().split()) for split in ("train", "validation") for row in sample(split)]
    assert len(set(prompts)) == len(prompts)


def test_no_two_prompts_of_the_sample_are_nearly_the_same():
    prompts = [row["prompt"].lower() for split in ("train", "validation") for row in sample(split)]
    matcher = SequenceMatcher(autojunk=False)
    for i, prompt in enumerate(prompts):
        matcher.set_seq2(prompt)  # which it keeps an index of
        for other in prompts[:i]:
            matcher.set_seq1(other)
            upper_bounds = (matcher.real_quick_ratio, matcher.quick_ratio)
            assert any(bound() < 0.75 for bound in upper_bounds) or matcher.ratio() < 0.75, (prompt, other)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_sample_is_of_many_kinds_and_its_lengths_do_not_give_the_answer_away(split):
    rows = sample(split)
    assert {row["kind"] for row in rows} == {
        *("explain", "rewrite", "list", "code", "arithmetic", "advice", "refuse-or-help", "formatting", "small-talk"),
        "summarise",
    }
    assert len({row["flaw"] for row in rows}) == 15
    difference = [len(row["chosen"]) - len(row["rejected"]) for row in rows]
    assert sum(each > 0 for each in difference) <= 0.6 * len(rows)
    assert sum(each < 0 for each in difference) <= 0.6 * len(rows)


def test_the_sample_is_not_made_from_templates():
    rows = sample("train") + sample("validation")
    for side in ("prompt", "chosen", "rejected"):
        openings = Counter(" ".join(row[side].lower().split()[:4]) for row in rows)
        assert openings.most_common(1)[0][1] <= 0.02 * len(rows)


def test_a_file_in_the_home_folder_is_found(tmp_path, monkeypatch, write_rows):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rows(tmp_path / "a.jsonl", GOOD)
    assert ids("~/a.jsonl") == ["~/a.jsonl:1"]


def test_a_file_name_is_a_name_and_not_a_pattern(tmp_path, write_rows):
    write_rows(tmp_path / "a1.jsonl", OTHER)  # what the pattern would find
    path = write_rows(tmp_path / "a[1].jsonl", GOOD)
    assert [row for _, row in open_source(SourceConfig(path), "train").read()] == [GOOD]


def test_a_folder_without_names_of_splits_is_read_whole_in_the_order_of_its_files(tmp_path, write_rows):
    paths = [
        write_rows(tmp_path / name, GOOD) for name in ("restrained/c.jsonl", "b.jsonl.gz", "a.parquet", "late.json")
    ]
    (tmp_path / "README.md").write_text("no data")
    expected = [f"{path}:1" for path in sorted(paths)]
    assert ids(tmp_path) == expected == ids(tmp_path, "validation")


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["train_prefs.parquet", "test_prefs.parquet"], ["train_prefs.parquet"], ["test_prefs.parquet"]),
        (
            ["train-0.jsonl", "train-1.jsonl", "val.jsonl", "test.jsonl"],
            ["train-0.jsonl", "train-1.jsonl"],
            ["val.jsonl"],
        ),
        (["train/a.jsonl", "validation/a.jsonl"], ["train/a.jsonl"], ["validation/a.jsonl"]),
        (["Train.json", "DEV.json", "notes.json"], ["Train.json"], ["DEV.json"]),
        # the nearest name decides
        (["test/train.jsonl", "test/heldout.jsonl"], ["test/train.jsonl"], ["test/heldout.jsonl"]),
        (["a/train.jsonl", "b/train.jsonl", "b/test.jsonl"], ["a/train.jsonl", "b/train.jsonl"], ["b/test.jsonl"]),
        ([".hidden/train.jsonl", "train.jsonl", ".train.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
    ],
)
def test_of_a_folder_with_splits_the_asked_one_is_read(tmp_path, write_rows, names, train, validation):
    for name in names:
        write_rows(tmp_path / name, GOOD)
    assert ids(tmp_path) == [f"{tmp_path / name}:1" for name in train]
    assert ids(tmp_path, "validation") == [f"{tmp_path / name}:1" for name in validation]


def test_another_split_of_a_folder_can_be_asked_for(tmp_path, write_rows):
    for name in ("train.jsonl", "test.jsonl", "extra.jsonl"):
        write_rows(tmp_path / name, GOOD)
    assert ids(tmp_path, "train", split="extra") == [f"{tmp_path / 'extra.jsonl'}:1"]
    with pytest.raises(
        ValueError, match=r"no file of the split 'nonesuch'; files: extra\.jsonl, test\.jsonl, train\.jsonl"
    ):
        ids(tmp_path, split="nonesuch")


def test_a_file_of_two_splits_is_not_guessed_at(tmp_path, write_rows):
    for name in ("train.jsonl", "train_eval.jsonl"):
        write_rows(tmp_path / name, GOOD)
    for stage in ("train", "validation"):
        with pytest.raises(ValueError, match=r"train_eval\.jsonl: is it for training or for validation\?"):
            ids(tmp_path, stage)
    assert ids(tmp_path, split="train_eval") == [f"{tmp_path / 'train_eval.jsonl'}:1"]


def test_files_of_several_kinds_are_not_mixed(tmp_path, write_rows):
    for name in ("train_prefs-00000-of-00002.parquet", "train_prefs-00001-of-00002.parquet", "train_sft.parquet"):
        write_rows(tmp_path / "data" / name, GOOD)
    with pytest.raises(ValueError, match="several kinds of files are of the train split: train_prefs, train_sft; set"):
        ids(tmp_path)
    assert len(ids(tmp_path, split="train_prefs")) == 2


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("hh-rlhf", {"data_dir": "helpful-base"}, "hh-rlhf: data_dir = 'helpful-base' means nothing for a short name"),
        ("sample", {"split": "test"}, "sample: split = 'test' means nothing for the sample"),
        ("{file}", {"split": "test"}, "split = 'test' means nothing for a file; leave it out"),
        ("{folder}", {"revision": "main"}, "revision = 'main' means nothing for a folder; leave it out"),
    ],
)
def test_a_setting_that_means_nothing_for_a_source_is_refused(tmp_path, write_rows, path, options, said):
    file = write_rows(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(ValueError, match=said):
        ids(path.format(file=file, folder=tmp_path), **options)


def test_a_folder_of_training_files_alone_has_no_validation_split(tmp_path, write_rows):
    write_rows(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(ValueError, match=r"no file of the validation split; files: train\.jsonl\. Name one of them"):
        ids(tmp_path, "validation")


def test_a_folder_without_data_is_refused_with_the_kinds_that_are_read(tmp_path):
    with pytest.raises(ValueError, match="holds no data files") as error:
        ids(tmp_path)
    assert all(kind in str(error.value) for kind in KINDS)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("smaple", "sample"),
        ("hh-rlfh", "hh-rlhf"),
        ("{folder}/pairz.jsonl", "{folder}/pairs.jsonl"),
        ("./none/at/all", None),
    ],
)
def test_what_is_not_there_is_refused_with_what_is_near(tmp_path, write_rows, given, near):
    write_rows(tmp_path / "pairs.jsonl", GOOD)
    given = given.format(folder=tmp_path)
    with pytest.raises(ValueError, match=r"^data\.train: no file or folder at") as error:
        ids(given)
    assert repr(given) in str(error.value)
    assert "hh-rlhf/harmless-base" in str(error.value)
    assert near is None or f"did you mean {near.format(folder=tmp_path)!r}?" in str(error.value)


def test_columns_are_named_by_ours():
    with pytest.raises(ValueError, match=r"data\.columns: 'promt' is not a column; did you mean 'prompt'\?"):
        SourceConfig("a.jsonl", columns={"promt": "question"})


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_the_weight_of_a_source_is_a_positive_number(weight):
    with pytest.raises(ValueError, match=r"the weight of a\.jsonl is"):
        SourceConfig("a.jsonl", weight=weight)


@pytest.fixture
def hub(tmp_path, monkeypatch, write_rows):
    """Data sets where the loading code of `datasets` finds them by their id: it looks in the current folder first."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    for name, count in (("harmless-base", 3), ("helpful-base", 2)):
        for split in ("train", "test"):
            rows = [
                {side: f"\n\nHuman: {name} {i}\n\nAssistant: {side}" for side in ("chosen", "rejected")}
                for i in range(count)
            ]
            write_rows(tmp_path / "Anthropic/hh-rlhf" / name / f"{split}.jsonl.gz", *rows)
    turns = {
        side: [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": side}]
        for side in ("chosen", "rejected")
    }
    ultrafeedback = tmp_path / "HuggingFaceH4/ultrafeedback_binarized"
    for split in ("train_prefs", "test_prefs", "train_sft"):
        write_rows(ultrafeedback / "data" / f"{split}-00000-of-00001.parquet", {"prompt": split, **turns})
    files = "".join(
        f"  - split: {split}\n    path: data/{split}-*\n" for split in ("train_prefs", "test_prefs", "train_sft")
    )
    (ultrafeedback / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    cleaned = {"prompt": "Hi", **turns, "chosen-rating": 4.5, "rejected-rating": 2.0}
    write_rows(tmp_path / "argilla/ultrafeedback-binarized-preferences-cleaned/data/train.parquet", cleaned)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "split", "label", "rows"),
    [
        ("hh-rlhf/harmless-base", "train", "Anthropic/hh-rlhf/harmless-base/train", 3),
        ("hh-rlhf/harmless-base", "validation", "Anthropic/hh-rlhf/harmless-base/test", 3),
        ("hh-rlhf/helpful-base", "train", "Anthropic/hh-rlhf/helpful-base/train", 2),
        ("hh-rlhf", "validation", "Anthropic/hh-rlhf/test", 5),
        ("ultrafeedback", "train", "HuggingFaceH4/ultrafeedback_binarized/train_prefs", 1),
        ("ultrafeedback", "validation", "HuggingFaceH4/ultrafeedback_binarized/test_prefs", 1),
        ("ultrafeedback-cleaned", "train", "argilla/ultrafeedback-binarized-preferences-cleaned/train", 1),
    ],
)
def test_short_names_are_loaded_by_the_code_that_loads_from_the_hub(hub, name, split, label, rows):
    assert ids(name, split) == [f"{label}:{number + 1}" for number in range(rows)]


def test_the_short_name_of_the_cleaned_data_knows_its_score_columns(hub):
    columns = columns_of(SourceConfig("ultrafeedback-cleaned", columns={"prompt": "prompt"}), "train")
    ((_, row),) = open_source(SourceConfig("ultrafeedback-cleaned"), "train").read()
    assert [row[columns[score]] for score in ("score_chosen", "score_rejected")] == [4.5, 2.0]
    assert columns["prompt"] == "prompt"


def test_a_short_name_without_a_validation_split_says_so():
    with pytest.raises(ValueError, match="ultrafeedback-cleaned has no validation split"):
        open_source(SourceConfig("ultrafeedback-cleaned"), "validation")


def test_a_hub_data_set_is_loaded_with_its_configuration_and_split(hub, write_rows):
    folder = hub / "someone/pairs"
    for config in ("easy", "hard"):
        for split in ("train", "test"):
            write_rows(folder / config / f"{split}.jsonl", {**GOOD, "prompt": f"{config} {split}"})
    text = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {config}/{split}.jsonl\n" for split in ("train", "test"))
        for config in ("easy", "hard")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{text}---\n")
    shutil.move(folder, hub / "elsewhere")
    with pytest.raises(ValueError, match="someone/pairs is no file or folder here and cannot be loaded from the hub"):
        ids("someone/pairs", config="hard")

    # what is a folder here is read as a folder; the hub's loading code is reached under another name
    os.makedirs(hub / "sub" / "someone")
    shutil.move(hub / "elsewhere", hub / "sub" / "someone" / "pairs")
    from orpo_lightning.data import sources

    os.chdir(hub / "sub")
    for split, expected in (("train", "train"), ("validation", "test")):
        source = sources._hub_source(SourceConfig("someone/pairs", config="hard"), split)
        assert [(row_id, row["prompt"]) for row_id, row in source.read()] == [
            (f"someone/pairs/hard/{expected}:1", f"hard {expected}")
        ]
    with pytest.raises(ValueError, match="there is no split nonesuch; set split to one of: train, test"):
        sources._hub_source(SourceConfig("someone/pairs", config="hard", split="nonesuch"), "train")


def test_every_short_name_maps_to_splits_of_a_hub_data_set():
    for name, splits in SHORT_NAMES.items():
        assert "train" in splits, name
        assert all(config.path.count("/") == 1 and config.split for config in splits.values()), name
