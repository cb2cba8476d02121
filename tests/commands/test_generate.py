"""Answers to the prompts of a file, from any kind of model."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo_lightning.models import identity, loading, pretrained

pytestmark = pytest.mark.usefixtures("short_sample")

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.max_steps=2", "--trainer.limit_val_batches=1"),
]
QUESTIONS = ["Name a colour.", "Hi", "What is a long question good for, if nobody knows the answer to it?", "2 + 2 ="]


@pytest.fixture
def questions(tmp_path):
    (tmp_path / "questions.txt").write_text("".join(f"{question}\n" for question in QUESTIONS))
    return "questions.txt"


def rows(path="out.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_from_a_fit_to_answers(orpo_lightning, questions, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    capsys.readouterr()
    orpo_lightning(
        "generate", "--model", "runs/orpo", "--prompts", questions, "--out", "out.jsonl", "--max-new-tokens=9"
    )
    printed = capsys.readouterr()
    assert printed.out == "4 answers written to out.jsonl (4 cut off at 9 tokens)\n"
    assert "4/4" in printed.err
    assert "Loading weights" not in printed.err
    found = rows()
    assert [row["prompt"] for row in found] == [[{"role": "user", "content": question}] for question in QUESTIONS]

    net = AutoModelForCausalLM.from_pretrained("runs/orpo/model")
    tokenizer = AutoTokenizer.from_pretrained("runs/orpo/model")
    for row in found:
        chat = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        alone = net.generate(**chat, max_new_tokens=9, do_sample=False)[0, chat["input_ids"].shape[1] :]
        assert row["response"] == tokenizer.decode(alone, skip_special_tokens=True)
        assert row["tokens"] == len(alone)
        assert row["finish_reason"] == ("eos" if alone[-1] == tokenizer.eos_token_id else "length")


def test_the_answers_do_not_depend_on_the_batch_size(orpo_lightning, questions):
    for size in (1, 3, 8):
        orpo_lightning(
            *("generate", "--model", "tiny", "--prompts", questions, "--out", f"{size}.jsonl"),
            *("--max-new-tokens=12", f"--batch-size={size}"),
        )
    assert rows("1.jsonl") == rows("3.jsonl") == rows("8.jsonl")


def test_how_the_answers_were_made_is_written_beside_them(orpo_lightning, questions):
    sampled = ["--temperature=0.7", "--top-p=0.9", "--seed=5", "--max-new-tokens=6", "--dtype=bfloat16"]
    orpo_lightning("generate", "--model", "tiny", "--prompts", questions, "--out", "deep/out.jsonl", *sampled)
    about = json.loads(Path("deep/out.jsonl.meta.json").read_text())
    assert {"orpo-lightning", "torch", "transformers"} <= about.pop("versions").keys()
    tiny = loading.load_causal_lm(loading.PolicyConfig("tiny", dtype="bfloat16"))
    assert about == {
        "model": "tiny",
        "revision": None,
        "weights": {"path": None, "step": None, "fingerprint": identity.fingerprint(tiny)},
        "dtype": "bfloat16",
        "device": "cuda:0" if torch.cuda.is_available() else "cpu",
        "max_new_tokens": 6,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
        "batch_size": 8,
        "prompts": "questions.txt",
        "prompts_sha256": hashlib.sha256(Path(questions).read_bytes()).hexdigest(),
        "rows": 4,
    }
    assert sorted(os.listdir("deep")) == ["out.jsonl", "out.jsonl.meta.json"]
    orpo_lightning("generate", "--model", "tiny", "--prompts", questions, "--out", "again.jsonl", *sampled)
    assert rows("again.jsonl") == rows("deep/out.jsonl")


@pytest.mark.slow
def test_the_weights_that_answered_are_told_of(orpo_lightning, questions):
    def weights(model):
        orpo_lightning(
            *("generate", "--model", model, "--prompts", questions, "--out", "out.jsonl", "--max-new-tokens=1")
        )
        return json.loads(Path("out.jsonl.meta.json").read_text())["weights"]

    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    run = Path("runs/orpo")
    file = run / "checkpoints" / "last.ckpt"
    trained = identity.fingerprint(loading.load_causal_lm(loading.PolicyConfig("runs/orpo")))
    about = {"step": 2, "fingerprint": trained}
    assert weights(run) == weights(run / "model") == {"path": str((run / "model").resolve()), **about}
    assert weights(file) == {"path": str(file.resolve()), **about}
    shutil.rmtree(run / "model")
    assert weights(run) == {"path": str(file.resolve()), **about}
    other = shutil.copytree(pretrained.resolve("tiny"), "a model")
    found = weights(other)
    assert (found["path"], found["step"]) == (str(Path(other).resolve()), None)
    assert found["fingerprint"] != trained


def test_answers_that_are_there_stay_until_the_new_ones_are_whole(orpo_lightning, questions, monkeypatch):
    Path("out.jsonl").write_text("old")
    monkeypatch.setattr("orpo_lightning.models.generation.generate", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        orpo_lightning("generate", "--model", "tiny", "--prompts", questions, "--out", "out.jsonl")
    assert Path("out.jsonl").read_text() == "old"
    assert set(os.listdir(".")) == {"out.jsonl", questions}


def test_a_bad_row_is_named_before_a_model_is_loaded(orpo_lightning, monkeypatch):
    Path("a.jsonl").write_text('{"prompt": "Hi"}\n{"question": "Hi"}\n')
    monkeypatch.setattr(loading, "load_causal_lm", lambda *args: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"a.jsonl:2: has none of the columns prompt, messages, instruction"):
        orpo_lightning("generate", "--model", "tiny", "--prompts", "a.jsonl", "--out", "out.jsonl")


def test_a_prompt_longer_than_the_model_is_named(orpo_lightning):
    Path("a.txt").write_text("Hi\n" + "word " * 3000)
    with pytest.raises(ValueError, match=r"a.txt:2: the prompt has \d+ tokens.*2048 positions; shorten the prompt"):
        orpo_lightning("generate", "--model", "tiny", "--prompts", "a.txt", "--out", "out.jsonl")
    assert os.listdir(".") == ["a.txt"]


def test_a_setting_out_of_range_is_refused_before_a_model_is_loaded(orpo_lightning, questions, monkeypatch):
    monkeypatch.setattr(loading, "load_causal_lm", lambda *args: pytest.fail("a model was loaded"))
    for option, sentence in (("--top-p=1.5", r"top_p = 1\.5 is out of range"), ("--seed=-1", "seed = -1 is out of")):
        with pytest.raises(ValueError, match=sentence):
            orpo_lightning("generate", "--model", "tiny", "--prompts", questions, "--out", "out.jsonl", option)


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("folder", "--out folder: folder is there and is no file; accepted: a jsonl file, overwritten if it is there"),
        ("a.jsonl", r"--out a\.jsonl: a\.jsonl\.meta\.json is there and is no file"),
        ("./questions.txt", r"--out questions\.txt: questions\.txt is the file of the prompts; accepted: another file"),
        ("link.jsonl", r"--out link\.jsonl: link\.jsonl is the file of the prompts"),
        ("file/deep/out.jsonl", "the folder file/deep cannot be written .*; accepted: a file in one that can"),
        ("/proc/out.jsonl", "the folder /proc cannot be written"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_refused_before_a_model_is_loaded(
    orpo_lightning, questions, monkeypatch, out, sentence
):
    Path("folder").mkdir()
    Path("a.jsonl.meta.json").mkdir()
    Path("file").touch()
    Path("link.jsonl").symlink_to(questions)
    monkeypatch.setattr(loading, "load_causal_lm", lambda *args: pytest.fail("a model was loaded"))
    before = sorted(os.listdir())
    with pytest.raises(ValueError, match=sentence):
        orpo_lightning("generate", "--model", "tiny", "--prompts", questions, "--out", out)
    assert sorted(os.listdir()) == before


def test_prompts_beside_which_the_answers_would_be_described_are_not_overwritten(orpo_lightning):
    Path("a.jsonl").write_text("old")
    Path("a.jsonl.meta.json").write_text('[{"prompt": "Hi"}]')
    with pytest.raises(ValueError, match=r"--out a\.jsonl: a\.jsonl\.meta\.json is the file of the prompts"):
        orpo_lightning("generate", "--model", "tiny", "--prompts", "a.jsonl.meta.json", "--out", "a.jsonl")


def test_answers_that_are_there_are_overwritten_and_the_help_says_so(orpo_lightning, questions, capsys):
    Path("out.jsonl").write_text("old")
    orpo_lightning(*("generate", "--model", "tiny", "--prompts", questions, "--out", "out.jsonl", "--max-new-tokens=2"))
    assert len(rows()) == 4
    with pytest.raises(SystemExit):
        orpo_lightning("generate", "--help")
    assert "overwritten if it is there" in " ".join(capsys.readouterr().out.split())
