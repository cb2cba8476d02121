"""Every command and snippet of every page under docs/ runs, in a folder as a reader has it."""

import contextlib
import doctest
import functools
import importlib
import json
import shlex
import shutil
import sys

import pytest
from helpers import one_in
from lightning import LightningModule, Trainer
from pages import DOCS, ROOT, page_named

from orpo_lightning.__main__ import main
from orpo_lightning.testing import check_objective

PAIRS = [{"prompt": f"{i} and {i}?", "chosen": f"{2 * i}.", "rejected": f"{i}."} for i in range(16)]
ROWS = {
    "my_pairs.jsonl": [
        *PAIRS,
        {**PAIRS[0], "chosen": ""},
        {"prompt": "Help me.", "chosen": "I cannot.", "rejected": "As you like."},
    ],
    "my_questions.jsonl": [{"question": row["prompt"], **{**row, "prompt": None}} for row in PAIRS],
    "my_ranked.jsonl": [
        *({"question": row["prompt"], "answers": [row["chosen"], "Some.", row["rejected"]]} for row in PAIRS),
        {"question": "Hi", "answers": ["Hello!"]},
    ],
}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, short_sample):
    """A run that commands look at or go on with."""
    folder = tmp_path_factory.mktemp("runs") / "orpo"
    arguments = ["fit", "--config", str(ROOT / "configs" / "orpo.yaml"), "--trainer.max_epochs=1"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["orpo-lightning", *arguments, f"--trainer.default_root_dir={folder}"])
        main()
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch, request, finished_run, only_built_in_objectives):
    """A reader's folder: the configs, a finished run, data of their own and the files that the page has them write."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in ("orpo", "sft", "dpo", "sweeps/strength/trials/000"):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
    (tmp_path / "my_prompts.txt").write_text("Name a colour.\nWhat is 2 + 2?\n")
    for name, rows in ROWS.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in request.getfixturevalue("page").files.items():
        (tmp_path / name).write_text(content)
        sys.modules.pop(name.removesuffix(".py"), None)  # another page or test may have a file of the same name
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    already = set(sys.modules)
    yield tmp_path
    if "wandb" in sys.modules:  # a run that is open would be that of the next test
        import wandb

        wandb.finish()
        wandb.teardown()
    for name in set(sys.modules) - already:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


TAKING_LONG = (
    "smollm2",
    "orpo-lightning sweep",
    "--figures",
    "compile_layers",
    "orpo-lightning fit",
    "orpo-lightning estimate",
)
COMMANDS = [(page, command) for page in DOCS for command in page.commands]
FITS = [each for each in COMMANDS if each[1].startswith("orpo-lightning fit") and "--print_config" not in each[1]]


def named(page, command, marks=()):
    return pytest.param(page, command, marks=marks, id=f"{page.path.stem}: {command}")


def slow_where_it_takes_long(page, command):
    return named(page, command, pytest.mark.slow if any(each in command for each in TAKING_LONG) else ())


@pytest.mark.parametrize(("page", "command"), [slow_where_it_takes_long(*each) for each in COMMANDS])
def test_command(folder, monkeypatch, page, command):
    program, *arguments = shlex.split(command)
    assert program == "orpo-lightning"
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    ends_early = "--print_config" in arguments or "--help" in command
    with pytest.raises(SystemExit, match=r"^0$") if ends_early else contextlib.nullcontext():
        main()  # fails by raising


@pytest.mark.parametrize(("page", "command"), one_in(3, FITS), ids=[f"{page.path.stem}: {each}" for page, each in FITS])
def test_everything_that_a_fit_is_asked_for_is_there(folder, monkeypatch, page, command):
    asked_for = []

    @functools.wraps(Trainer.fit)
    def fit(trainer, model, **others):
        asked_for.append(model)

    monkeypatch.setattr(Trainer, "fit", fit)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    main()
    (module,) = asked_for
    assert isinstance(module, LightningModule)


@pytest.mark.parametrize("page", [page for page in DOCS if page.snippets], ids=lambda page: page.path.stem)
def test_the_snippets_of_a_page_run_one_after_the_other(folder, monkeypatch, page):
    module = type(sys)("reader")
    monkeypatch.setitem(sys.modules, "reader", module)
    for snippet in page.snippets:
        exec(compile(snippet, str(page.path), "exec"), vars(module))


@pytest.mark.parametrize("page", [page for page in DOCS if page.sessions], ids=lambda page: page.path.stem)
def test_an_interpreter_answers_as_the_page_says(page):
    session = doctest.DocTestParser().get_doctest(page.sessions, {}, page.path.name, str(page.path), 0)
    answers = []
    doctest.DocTestRunner().run(session, out=answers.append)
    assert session.examples
    assert not answers, "".join(answers)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.path.stem)
def test_every_file_that_a_page_has_its_reader_write_is_used_there(page):
    for name in page.files:
        others = [content for other, content in page.files.items() if other != name]
        used = "\n".join([*page.commands, *page.snippets, *others])
        assert name.partition(".")[0] in used, f"{page.path}: nothing uses {name}"


@pytest.mark.parametrize("name", ["my_losses", "against_reference", "likelihood", "ranks", "memory", "single"])
def test_the_objectives_of_the_page_keep_the_contract(name, tmp_path, monkeypatch):
    page = page_named("extending")
    (tmp_path / f"{name}_of_docs.py").write_text(page.files[f"{name}.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(f"{name}_of_docs")
    (cls,) = (each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__)
    check_objective(cls)
