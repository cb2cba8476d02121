"""The cache of tokenized rows: warm, it recomputes nothing; it never answers another question; it survives damage."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from orpo_lightning import Filter
from orpo_lightning.cache_folder import CACHE_VARIABLE
from orpo_lightning.data import preparation
from orpo_lightning.data.lengths import LengthLimits
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.models.tiny import train_tiny_tokenizer
from orpo_lightning.models.tokenizer import load_tokenizer

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
OTHER = {"prompt": "Name a number.", "chosen": "Seven.", "rejected": "Blue."}


@pytest.fixture
def passes(own_cache, monkeypatch):
    """The passes over a source that were made, in a cache of the test's own."""
    made = []
    read = preparation._read

    def counted(*arguments):
        made.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(preparation, "_read", counted)
    return made


@pytest.fixture
def how():
    return Preparation(load_tokenizer("tiny"))


def prepare(how, path, split="train", **options):
    return how.prepare(SourceConfig(str(path), **options), split)


def contents(prepared):
    table, report = prepared
    return list(table), report.to_dict()


def test_a_second_preparation_recomputes_nothing_and_is_the_same(tmp_path, write_rows, passes, how):
    path = write_rows(tmp_path / "a.jsonl", GOOD, {**GOOD, "chosen": ""}, {**OTHER, "margin": 1.5, "weight": 2})
    first = contents(prepare(how, path))
    assert contents(prepare(how, path)) == first
    assert len(passes) == 1
    assert first[1]["dropped"] == {"empty_chosen": 1}


def test_a_touched_file_is_found_and_a_changed_one_is_read(tmp_path, write_rows, passes, how):
    path = write_rows(tmp_path / "a.jsonl", GOOD)
    prepare(how, path)
    os.utime(path, (0, 0))
    prepare(how, path)
    assert len(passes) == 1
    write_rows(tmp_path / "a.jsonl", OTHER)
    assert prepare(how, path)[0][0] != prepare(how, write_rows(tmp_path / "b.jsonl", GOOD))[0][0]
    assert len(passes) == 3


class Nothing(Filter):
    """Drops nothing."""

    def __init__(self, argument=1):
        self.argument = argument

    def __call__(self, row):
        return False


def test_everything_that_changes_the_rows_is_a_part_of_the_question(tmp_path, write_rows, passes, how):
    path = write_rows(tmp_path / "a.jsonl", {**GOOD, "score": 1}, {**OTHER, "score": 2})
    tokenizer = train_tiny_tokenizer(["another text"], 300)
    templated = load_tokenizer("tiny")
    templated.chat_template += " "
    questions = [
        lambda: prepare(how, path),
        lambda: prepare(replace(how, limits=LengthLimits(512, 128)), path),
        lambda: prepare(replace(how, limits=LengthLimits(overlong="truncate_prompt")), path),
        lambda: prepare(replace(how, limits=LengthLimits(bos=1)), path),
        lambda: prepare(replace(how, limit=1), path),
        lambda: prepare(replace(how, filters=[Nothing()]), path),
        lambda: prepare(replace(how, filters=[Nothing(2)]), path),
        lambda: prepare(replace(how, tokenizer=tokenizer), path),
        lambda: prepare(replace(how, tokenizer=templated), path),
        lambda: prepare(how, path, format="text"),
        lambda: prepare(how, path, columns={"margin": "score"}),
    ]
    for number, ask in enumerate(questions, start=1):
        ask()
        assert len(passes) == number
    for ask in questions:
        ask()
    assert len(passes) == len(questions)


def test_the_weight_of_a_source_is_not(tmp_path, write_rows, passes, how):
    path = write_rows(tmp_path / "a.jsonl", GOOD)
    prepare(how, path, weight=1.0)
    prepare(how, path, weight=0.5)
    assert len(passes) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"nonsense" * 100,
        # a flipped bit in the tokens: only the checksum shows it
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    ],
    ids=["cut off", "empty", "nonsense", "flipped bit"],
)
def test_a_damaged_file_is_named_and_made_again(tmp_path, write_rows, own_cache, passes, how, damage):
    path = write_rows(tmp_path / "a.jsonl", GOOD, OTHER)
    first = contents(prepare(how, path))
    (file,) = (own_cache / "data").glob("*.npz")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(RuntimeWarning, match=f"{file} is damaged and made again"):
        assert contents(prepare(how, path)) == first
    assert contents(prepare(how, path)) == first
    assert len(passes) == 2


def test_nothing_is_left_of_a_preparation_that_fails(tmp_path, write_rows, own_cache, how):
    path = write_rows(tmp_path / "a.jsonl", {**GOOD, "chosen": ""})
    with pytest.raises(ValueError, match="no row is left"):
        prepare(how, path)
    assert not list((own_cache / "data").glob("*.npz"))


SCRIPT = """
import sys
from orpo_lightning.data import preparation
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.models.tokenizer import load_tokenizer

how = Preparation(load_tokenizer("tiny"))
read, passes = preparation._read, 0

def counted(*arguments):
    global passes
    passes += 1
    return read(*arguments)

preparation._read = counted
print("ready", flush=True)
sys.stdin.readline()
table, report = how.prepare(SourceConfig(sys.argv[1]), "train")
print(passes, len(table), sum(row.num_tokens for row in table))
"""


@pytest.mark.slow
def test_of_processes_that_ask_at_once_one_prepares_and_all_get_the_same(tmp_path, write_rows, own_cache):
    path = write_rows(tmp_path / "a.jsonl", *({**GOOD, "chosen": f"{i}."} for i in range(2000)))
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [process.communicate()[0].split() for process in processes]
    assert sorted(int(passes) for passes, *_ in found) == [0, 1]
    assert len({tuple(rest) for _, *rest in found}) == 1
    assert found[0][1] == "2000"


def test_a_cache_that_cannot_be_made_is_named_with_the_variable_that_moves_it(tmp_path, write_rows, monkeypatch, how):
    path = write_rows(tmp_path / "a.jsonl", GOOD)
    (tmp_path / "a file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "a file"))
    with pytest.raises(ValueError, match=f"cannot be made .* set {CACHE_VARIABLE} to a folder that can be written"):
        prepare(how, path)
