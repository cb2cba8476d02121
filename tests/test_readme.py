"""Every command and snippet of the README runs; those of the pages under docs/ do in test_docs.py."""

import json
import re
import shlex
import shutil
import sys

import pytest
from pages import README as PAGE, ROOT

from orpo_lightning import objectives
from orpo_lightning.__main__ import main

README = PAGE.text
COMMANDS = PAGE.commands
SNIPPETS = PAGE.blocks("python")
RUN_BY_CI_ITSELF = ["make install", "make test"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs that the commands go on from: SFT, and DPO from there."""
    root = tmp_path_factory.mktemp("runs")
    for config, start in (("sft", "tiny"), ("dpo", str(root / "sft"))):
        arguments = ["fit", "--config", str(ROOT / "configs" / f"{config}.yaml"), "--trainer.max_steps=2"]
        arguments += [f"--model.policy.name_or_path={start}", f"--trainer.default_root_dir={root / config}"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["orpo-lightning", *arguments])
            main()
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch, runs, only_built_in_objectives):
    """A user's folder: the configs, finished runs, and pairs, prompts and a loss of their own."""
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "my_prompts.txt").write_text("Name a colour.\nWhat is 2 + 2?\n")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    pairs = [{"prompt": f"{i} and {i}?", "chosen": f"{2 * i}.", "rejected": f"{i}."} for i in range(16)]
    pairs.append({**pairs[0], "chosen": ""})
    (tmp_path / "my_pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "my_losses.py").write_text(next(snippet for snippet in SNIPPETS if "class SquaredMargin" in snippet))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_the_commands_and_snippets_that_are_tested_here():
    assert COMMANDS[:2] == RUN_BY_CI_ITSELF
    assert len(COMMANDS) == 17
    assert len(SNIPPETS) == 5


def slow_where_it_takes_minutes(command):
    return pytest.param(command, marks=pytest.mark.slow if "smollm2" in command else ())


@pytest.mark.parametrize("command", [slow_where_it_takes_minutes(c) for c in COMMANDS if c not in RUN_BY_CI_ITSELF])
def test_command(folder, monkeypatch, command):
    program, *arguments = shlex.split(command)
    assert program == "orpo-lightning"
    limit = ["--trainer.max_steps", "2"] if "smollm2" in command else []
    monkeypatch.setattr(sys, "argv", [program, *arguments, *limit])
    monkeypatch.syspath_prepend(str(folder))
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
