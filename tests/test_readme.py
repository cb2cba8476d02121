"""Every command and snippet of the README runs; those of the pages under docs/ do in test_docs.py."""

import contextlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from pages import README as PAGE, ROOT

from orpo_lightning import objectives
from orpo_lightning.__main__ import main
from orpo_lightning.summary.intervals import paired_bootstrap
from orpo_lightning.summary.pairs import read_pairs

README = PAGE.text
COMMANDS = PAGE.commands
SNIPPETS = PAGE.blocks("python")
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
TAKING_MINUTES = ("--config quickstart", "orpo-lightning sweep", "--figures")
MAKE = ["make quickstart", "make test", "make figures"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run of `make quickstart`, of the tiny model."""
    root = tmp_path_factory.mktemp("runs")
    arguments = ["fit", "--config=quickstart", "--model.policy.name_or_path=tiny", *SHORT]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            sys, "argv", ["orpo-lightning", *arguments, f"--trainer.default_root_dir={root / 'quickstart'}"]
        )
        main()
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch, runs, only_built_in_objectives):
    """A user's folder: a finished run, and pairs, prompts and a loss of their own."""
    shutil.copytree(runs, tmp_path / "runs")
    shutil.copytree(runs / "quickstart", tmp_path / "runs" / "sweeps" / "orpo_lambda_small" / "trials" / "000")
    (tmp_path / "my_prompts.txt").write_text("Name a colour.\nWhat is 2 + 2?\n")
    pairs = [{"prompt": f"{i} and {i}?", "chosen": f"{2 * i}.", "rejected": f"{i}."} for i in range(16)]
    pairs.append({**pairs[0], "chosen": ""})
    (tmp_path / "my_pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for name, rows in (("train", pairs[:12]), ("val", pairs[12:16])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in rows))
    (tmp_path / "my_losses.py").write_text(next(snippet for snippet in SNIPPETS if "class SquaredMargin" in snippet))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_the_commands_and_snippets_that_are_tested_here():
    assert COMMANDS[:2] == MAKE[:2]
    assert len(COMMANDS) == 19
    assert len(SNIPPETS) == 3


@pytest.mark.slow
def test_the_first_command_trains_a_language_model_that_learns(only_built_in_objectives, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    last = (ROOT / "Makefile").read_text().partition("\nquickstart: install\n")[2].splitlines()[0]
    program, *arguments = shlex.split(last.strip())
    assert program == "$(BIN)/orpo-lightning"
    monkeypatch.setattr(sys, "argv", ["orpo-lightning", *arguments])
    main()
    pairs = read_pairs(Path("runs/quickstart/val_pairs.csv"))
    before, after = ([pair for pair in pairs if pair.step == step] for step in (0, 15))
    assert len(before) == len(after) == 40
    assert 0.55 <= sum(pair.margin > 0 for pair in before) / 40 <= 0.8
    gain = paired_bootstrap([pair.margin for pair in before], [pair.margin for pair in after]).gain
    assert gain.low > 0


def slow_where_it_takes_minutes(command):
    return pytest.param(command, marks=pytest.mark.slow if any(each in command for each in TAKING_MINUTES) else ())


@pytest.mark.parametrize("command", [slow_where_it_takes_minutes(each) for each in COMMANDS if each not in MAKE])
def test_command(folder, monkeypatch, command):
    program, *arguments = shlex.split(command)
    assert program == "orpo-lightning"
    monkeypatch.setattr(sys, "argv", [program, *arguments, *(SHORT if "--config quickstart" in command else ())])
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(SystemExit, match=r"^0$") if "--print_config" in arguments else contextlib.nullcontext():
        main()  # fails by raising


def test_the_snippets_run_one_after_the_other(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    names = {"__name__": "readme"}
    monkeypatch.setitem(sys.modules, "readme", type(sys)("readme"))
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), names)
        vars(sys.modules["readme"]).update(names)
    assert names["trainer"].global_step == 32
    assert names["trainer"].callback_metrics["val/pref/margins"] > 0


def test_the_table_of_objectives_is_complete():
    assert set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)) == set(objectives.__all__) - {
        "Objective",
        "get_objective",
        "list_objectives",
    }
