"""Bad input ends with one clear message, without a traceback, before any model is loaded."""

import gzip
import json
import sys

import pytest
from helpers import one_in

from orpo_lightning.__main__ import console
from orpo_lightning.models import building

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
HH = {side: f"\n\nHuman: Hi\n\nAssistant: {side}" for side in ("chosen", "rejected")}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


BAD = [
    ("gone.jsonl", None, [], "data.train: no file or folder at 'gone.jsonl'"),
    ("empty.jsonl", b"", [], "empty.jsonl: holds no rows"),
    ("broken.jsonl", lines(GOOD) + b"{broken\n", [], "broken.jsonl:2: not valid JSON"),
    (
        "short.jsonl.gz",
        gzip.compress(lines(*[GOOD] * 99), mtime=0)[:-9],
        [],
        "short.jsonl.gz: the gzip file is broken or cut",
    ),
    ("garbage.jsonl", bytes(range(128, 256)), [], "garbage.jsonl:1: not text in UTF-8"),
    ("garbage.parquet", bytes(range(256)), [], "garbage.parquet: cannot be read as parquet"),
    ("a.csv", b"prompt,chosen\n", [], "a.csv: the file's kind is not known; accepted: .json, .jsonl"),
    ("column.jsonl", lines({"prompt": "Hi", "chosen": "Hello!"}), [], "column.jsonl: no row is of a known format"),
    ("type.jsonl", lines(GOOD, *[{**GOOD, "chosen": 5}] * 20), [], "type.jsonl: 20 of 21 rows cannot be read"),
    ("null.jsonl", lines(GOOD, *[{**GOOD, "prompt": None}] * 20), [], "null.jsonl: 20 of 21 rows cannot be read"),
    (
        "unknown.jsonl",
        lines({"a": 1, "b": 2}),
        [],
        "unknown.jsonl: no row is of a known format; the columns are a, b",
    ),
    (
        "turns.jsonl",
        lines(HH, *[{**HH, "chosen": "\n\nHuman: Hi"}] * 20),
        [],
        "turns.jsonl: 20 of 21 rows cannot be read in the format 'hh_rlhf', more than 10%",
    ),
    (
        "prefix.jsonl",
        lines(*[{**HH, "chosen": "\n\nHuman: Ho\n\nAssistant: chosen"}] * 20),
        [],
        "prefix.jsonl: 20 of 20 rows cannot be read in the format 'hh_rlhf', more than 10%",
    ),
    (
        "none.jsonl",
        lines({**GOOD, "chosen": ""}),
        [],
        "no row is left: train: none.jsonl (text): 1 rows read, 0 kept",
    ),
    *(
        ("long.jsonl", lines({**GOOD, "prompt": "long " * 2000}), [f"--data.overlong={policy}"], said)
        for policy, said in (
            ("drop", "no row is left: train: long.jsonl (text): 1 rows read, 0 kept, dropped: 1 prompt_too_long"),
            ("truncate_response", "no row is left"),
            ("error", "long.jsonl:1: the prompt has"),
        )
    ),
    (
        "weight.jsonl",
        lines(GOOD),
        ['--data.train=[{"path": "weight.jsonl", "weight": -1}]'],
        "data: the weight of weight.jsonl is -1.0; accepted: a number in (0, 1000)",
    ),
    (
        "source.jsonl",
        lines(GOOD),
        ['--data.train={"path": "source.jsonl", "columns": {"promt": "x"}}'],
        "data.columns: 'promt' is not a column; did you mean 'prompt'?",
    ),
    ("nothing.jsonl", lines(GOOD), ["--data.train="], "data: the path of a source is empty; accepted: a file"),
    ("format.jsonl", lines(GOOD), ["--data.format=csv"], "data.format = 'csv'; accepted: text, messages"),
    (
        "mapped.jsonl",
        lines(GOOD),
        ['--data.columns={"system": "query"}'],
        "mapped.jsonl: data.columns names the column",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    one_in(2, BAD),
)
def test_it_ends_with_one_message_before_any_model_is_loaded(tmp_path, monkeypatch, name, content, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(building, "load_together", lambda *args: pytest.fail("a model was loaded"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ["fit", "--data.train", name, "--data.val=null", "--trainer.max_steps=1", *options]
    monkeypatch.setattr(sys, "argv", ["orpo-lightning", *arguments])
    with pytest.raises(SystemExit) as error:
        console()
    message = str(error.value).removeprefix("orpo-lightning: ")
    assert message.startswith(said)
    assert "Traceback" not in message


def test_a_prompt_longer_than_the_window_is_cut_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.jsonl").write_bytes(lines({**GOOD, "prompt": "long " * 2000}))
    arguments = ["fit", "--data.train", "long.jsonl", "--data.val=null", "--data.overlong=truncate_prompt"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    monkeypatch.setattr(sys, "argv", ["orpo-lightning", *arguments, *quiet, "--trainer.max_steps=1"])
    console()
    assert json.loads((tmp_path / "runs/run/data_report.json").read_text())["train"]["truncated"] == {"prompt": 1}
