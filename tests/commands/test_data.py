"""The verb ``data``: the account of the rows and how the model sees them, before any model is loaded."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from orpo_lightning.commands.data import main
from orpo_lightning.models import building

CONFIGS = Path(__file__).parents[2] / "configs"
GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (GOOD, {**GOOD, "chosen": " "}, GOOD, GOOD)))
    return str(path)


@pytest.fixture
def data(monkeypatch, capsys, tmp_path):
    """Runs the verb with a shipped configuration, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(building, "load_together", lambda *args: pytest.fail("a model was loaded"))

    def run(config, *options):
        monkeypatch.setattr(
            sys, "argv", ["orpo-lightning", "data", "--config", str(CONFIGS / f"{config}.yaml"), *options]
        )
        main()
        return capsys.readouterr().out

    return run


def test_it_prints_the_account_and_a_few_rows_with_their_special_tokens(data, rows):
    said = data("orpo", "--data.train", rows, "--show", "1")
    assert f"train: {rows} (text)" in said
    assert "empty_chosen" in said
    assert "longer response is the chosen one" in said
    assert f"{rows}:1\n" in said
    assert "<|user|>\nName a colour.<|end|>\n<|assistant|>\n" in said
    assert "Blue.<|end|>\n" in said
    assert said.count("-- prompt") == 1
    assert data("orpo", "--data.train", rows, "--show", "3").count("-- prompt") == 3
    assert "-- prompt" not in data("orpo", "--data.train", rows, "--show", "0")


@pytest.mark.parametrize(
    ("config", "options", "prompt"),
    [
        ("orpo", (), "in the loss"),
        ("orpo", ("--model.objective.nll_over", "response"), "not in the loss"),
        ("dpo", (), "not in the loss"),
    ],
)
def test_the_loss_mask_is_that_of_the_objective(data, rows, config, options, prompt):
    said = data(config, "--data.train", rows, *options)
    assert ["in the loss" if ", in the" in line else "not in the loss" for line in said.splitlines() if "-- " in line][
        :3
    ] == [prompt, "in the loss", "in the loss"]


def test_the_loss_mask_is_coloured_on_a_terminal(data, rows, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = data("dpo", "--data.train", rows, "--show", "1")
    dim, green, red = "\x1b[2m", "\x1b[32m", "\x1b[31m"
    assert f"{dim}<|user|>" in said
    assert f"{green}Blue.<|end|>" in said
    assert f"{red}Seven.<|end|>" in said


def test_it_lists_the_rows_that_a_reason_dropped(data, rows):
    said = data("orpo", "--data.train", rows, "--dropped", "empty_chosen")
    assert f"train, {rows}:2: The chosen response is empty or whitespace\n" in said
    assert '"chosen": " "' in said
    assert said.count(f"{rows}:") == 1


def test_it_lists_the_dropped_rows_of_every_split(data, rows):
    said = data("orpo", "--data.train", rows, "--data.val", rows, "--dropped", "empty_chosen")
    assert [line for line in said.splitlines() if f"{rows}:2" in line] == [
        f"train, {rows}:2: The chosen response is empty or whitespace",
        f"validation, {rows}:2: The chosen response is empty or whitespace",
    ]


def test_what_a_terminal_would_obey_or_cannot_print_is_spelt_out(data, tmp_path):
    bad = [{**GOOD, "chosen": "half \ud83d", "\udc00": 1}, {**GOOD, "chosen": "\x1b[2J🐈\u200d⬛"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    assert "half \\ud83d" in data("orpo", "--data.train", "a.jsonl", "--dropped", "not_text")
    said = data("orpo", "--data.train", "a.jsonl", "--show", "1")
    assert "\\x1b[2J🐈\u200d⬛" in said
    assert "\x1b[2J" not in said


def test_a_negative_number_of_rows_to_show_is_refused(data, rows):
    with pytest.raises(ValueError, match="--show = -1 is out of range; accepted: 0 or more"):
        data("orpo", "--data.train", rows, "--show", "-1")


def test_it_reads_the_configuration_that_a_fit_leaves(data, rows, tmp_path):
    kept = yaml.safe_load((CONFIGS / "dpo.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**kept, "ckpt_path": None, "weights_only": True}))
    assert f"train: {rows} (text)" in data("orpo", "--config", "config.yaml", "--data.train", rows)


def test_a_reason_that_dropped_nothing_is_refused_with_those_that_did(data, rows):
    with pytest.raises(ValueError, match="it dropped no row; reasons that did: empty_chosen"):
        data("orpo", "--data.train", rows, "--dropped", "empty_chosn")


def test_bad_data_ends_with_a_message_and_no_model(data, tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n{broken\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: not valid JSON"):
        data("orpo", "--data.train", str(tmp_path / "bad.jsonl"))


def test_sources_filters_and_columns_come_from_the_configuration(data, tmp_path, monkeypatch):
    (tmp_path / "my_filters.py").write_text(
        "from orpo_lightning import Filter, TextRow\n\n\n"
        "class ShortChosen(Filter):\n"
        '    """The chosen response has too few words."""\n\n'
        "    def __init__(self, words: int = 3) -> None:\n"
        "        self.words = words\n\n"
        "    def __call__(self, row: TextRow) -> bool:\n"
        "        return row.chosen is not None and len(row.chosen.split()) < self.words\n"
    )
    train = [{"question": f"Say {i}.", "chosen": f"{i} " * i, "rejected": "No."} for i in range(1, 6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    (tmp_path / "layer.yaml").write_text(
        f"""
data:
  train:
    - path: {tmp_path}/a.jsonl
      weight: 0.5
    - sample
  val:
    own: {tmp_path}/a.jsonl
    sample: sample
  columns: {{prompt: question}}
  filters:
    - class_path: my_filters.ShortChosen
      init_args: {{words: 2}}
    - Duplicates
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    said = data("orpo", "--config", "layer.yaml", "--show", "0")
    first, second, *validation = [line for line in said.splitlines() if line.startswith(("train", "validation"))]
    assert (first, second) == (f"train/1: {tmp_path}/a.jsonl (text)", "train/2: sample (text)")
    assert validation == [f"validation/own: {tmp_path}/a.jsonl (text)", "validation/sample: sample (text)"]
    lines = [line.split() for line in said.splitlines()]
    assert ["read", "5", "250"] in lines  # the first five rows are those of train/1
    assert ["short_chosen", "-1"] in lines
    assert ["used", "per", "epoch", "2", "250"] in lines


def test_a_data_file_is_never_read_as_a_configuration(data, tmp_path):
    # a row that looks like a source, in a file of one line
    (tmp_path / "a.jsonl").write_text(json.dumps({**GOOD, "path": "sample"}) + "\n")
    (tmp_path / "b.json").write_text(json.dumps([{**GOOD, "path": "sample"}]))
    for name in ("a.jsonl", "b.json"):
        assert f"train: {name} (text)" in data("orpo", "--data.train", name)


def test_it_says_what_there_is_reason_to_change(data, rows, tmp_path):
    assert "validation data the sample of the package: set data.val, or to null" in data("orpo", "--data.train", rows)
    assert "validation data the sample" not in data("orpo", "--data.train", rows, "--data.val=null")
    said = data("orpo", "--data.train", "sample", "--data.max_prompt_length", "30")
    assert "of the rows of train are too long and dropped: raise data.max_length (512)" in said


def test_it_says_that_the_objective_takes_pairs(data, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Hi", "completion": "Hello!", "label": True}) + "\n")
    said = data("dpo", "--data.train", "a.jsonl", "--data.val=null")
    assert "DPO takes pairs, and a.jsonl:1 is a single response: a fit refuses it; KTO takes both" in said
    assert "takes pairs" not in data("kto", "--data.train", "a.jsonl", "--data.val=null")


def test_it_says_that_the_objective_compares_prompts(data, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**GOOD, "chosen": f"{i}."}) + "\n" for i in range(3)))
    said = data("kto", "--data.train", "a.jsonl", "--data.val=null")
    assert "the train data has fewer than two different prompts" in said
    assert "a fit refuses it" in said
