"""The printed summary and its page: what they say, and that they fit."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orpo_lightning.summary.answers import Answer, write_answers
from orpo_lightning.summary.markdown import to_markdown, write_markdown
from orpo_lightning.summary.pairs import PairMeasures, write_pairs
from orpo_lightning.summary.run import Outcome, RunSummary, Speed
from orpo_lightning.summary.terminal import print_summary, summary_lines

CONFIG = """
seed_everything: 0
model:
  class_path: orpo_lightning.PreferenceModule
  init_args:
    objective: {class_path: orpo_lightning.ORPO, init_args: {lambda_: 0.1}}
    policy: {name_or_path: smollm2, lora: {r: 0}}
data: {class_path: orpo_lightning.PreferenceDataModule, init_args: {train: sample, val: "a|b.jsonl"}}
"""
NOISE = np.random.default_rng(0).normal(0, 0.1, size=40).tolist()
LONG = "An answer that goes on and on, as those of small language models will. " * 20


def outcome(ending="complete", **changes):
    values = {
        "objective": "ORPO(lambda_=0.1, nll_over='prompt_and_response', nll_mean='tokens')",
        "ending": ending,
        "steps": 24 if ending == "complete" else 9,
        "total_steps": 24,
        "speed": Speed(
            75.0,
            24,
            60.0,
            192,
            24_000,
            1.634,
            tflop=36.52,
            peak_tflops=0.857,
            saved_by_sharing=0.33,
            seconds_waited=0.6,
        ),
        "reports": ["train: sample (text): 64 rows read, 60 kept, dropped: 4 identical_responses"],
    }
    return Outcome(**{**values, **changes})


def log_pairs(folder, step, gain):
    pairs = [
        PairMeasures(step, "", f"a:{i}", -2.0 + value + gain, -2.0, -6.0, -6.0, 3, 3) for i, value in enumerate(NOISE)
    ]
    write_pairs(folder / "val_pairs.csv", step, pairs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run folder as a fit leaves it."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "orpo"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    (run / "model").mkdir()
    (run / "config.yaml").write_text(CONFIG)
    (run / "metrics.csv").write_text("step,epoch,val/nll_response\n0,0,2.5\n24,2,2.25\n")
    log_pairs(run, 0, 0.0)
    log_pairs(run, 24, 0.5)
    write_answers(run / "answers.jsonl", 0, [Answer(0, "a:1", "Name a colour.", LONG, finished=False)])
    write_answers(run / "answers.jsonl", 24, [Answer(24, "a:1", "Name a colour.", "Blue.\n\nOr green.", finished=True)])
    return run


def printed(folder, *, width=80, **changes):
    console = Console(file=io.StringIO(), width=width)
    print_summary(RunSummary.of_run(folder, outcome(**changes)), console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_no_line_is_longer_than_a_terminal_and_none_ends_in_blanks(folder, width):
    lines = printed(folder, width=width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_pipe_gets_plain_text(folder):
    text = printed(folder)
    assert "\x1b" not in text
    assert text.isprintable() or set(text) - {"\n"} == {char for char in text if char.isprintable()}


def test_what_the_run_has_found_to_be_wrong_stands_above_the_numbers_that_it_is_about(folder):
    found = ["the first thing goes wrong: " + "look at it, and at it again, " * 4 + "done", "the \x1b[31msecond"]
    text = printed(folder, warnings=found)
    assert "- the first thing goes wrong" in text
    assert text.index("Warnings") < text.index("again, done") < text.index("- the \\x1b") < text.index("Validation")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    page = to_markdown(RunSummary.of_run(folder, outcome(warnings=found)))
    assert "## Warnings\n\n- The first thing goes wrong: look" in page
    assert page.index("## Warnings") < page.index("## Validation")
    assert "Warnings" not in printed(folder) + to_markdown(RunSummary.of_run(folder, outcome()))


def test_it_says_what_a_person_wants_to_know(folder):
    text = printed(folder)
    for part in (
        "ORPO(lambda_=0.1",
        "on smollm2",
        "24 of 24 optimizer steps",
        "Validation, 40 pairs",
        "+0.500 to +0.500",
        "margin: rose, the interval of its gain is above 0",
        "Name a colour.",
        "after   Blue. Or green.",
        "60 kept, dropped: 4 identical_responses",
        "24 steps of 2.50 s: 3.2 pairs/s, 400 tokens/s",
        "1 min 15 s in all; peak memory 1.63 GB",
        "In runs/orpo",
        "checkpoints/",
        "orpo-lightning fit --config runs/orpo/config.yaml --model.objective DPO",
    ):
        assert part in text, part
    assert (
        "1.52 * 10^12 operations a step, at 71% of the hardware's 0.857 * 10^12 a second; shared prompts saved 33% of "
        "the work; "
        "1.0% of the time went by waiting for data"
    ) in " ".join(text.split())


def test_a_long_answer_is_cut_to_a_few_lines(folder):
    lines = printed(folder).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("before  An answer"))
    end = next(i for i, line in enumerate(lines) if line.strip().startswith("after   Blue."))
    assert end - start == 4
    assert lines[end - 1].endswith("…")


def test_without_a_clear_gain_no_improvement_is_claimed(folder):
    log_pairs(folder, 24, 0.0)
    text = printed(folder)
    assert "margin: no clear change, the interval of its gain includes 0" in text
    assert "rose" not in text


def test_a_run_that_was_interrupted_says_so_and_how_to_go_on(folder):
    text = printed(folder, ending="interrupted", steps=24, total_steps=48)
    assert "interrupted after 24 of 48 optimizer steps" in text
    assert "orpo-lightning fit --config runs/orpo/config.yaml --ckpt_path last" in text


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(folder):
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert "--ckpt_path" not in printed(folder, ending="interrupted")


def test_without_validation_nothing_false_is_said(folder):
    (folder / "val_pairs.csv").unlink()
    (folder / "answers.jsonl").unlink()
    (folder / "metrics.csv").write_text("step,epoch,train/loss\n0,0,2.5\n")
    text = printed(folder)
    assert "No preference pairs were validated" in text
    assert not {"accuracy:", "before", "rose"} & set(text.split())


def test_without_a_before_it_is_said_why(folder):
    write_pairs(folder / "val_pairs.csv", 0, [])
    log_pairs(folder, 16, 0.5)
    (folder / "metrics.csv").write_text("step,epoch,val/nll_response\n16,0,2.5\n")
    text = " ".join(printed(folder).split())
    assert 'There is no "before": the policy was not validated before its first step.' in text
    assert '"after" is after step 16, the last one that was validated.' in text
    assert "rose" not in text


def test_without_an_after_it_is_said_too(folder):
    log_pairs(folder, 0, 0.0)
    (folder / "metrics.csv").write_text("step,epoch,val/nll_response\n0,0,2.5\n")
    assert 'There is no "after": no validation ran after the first step.' in printed(folder)


def test_data_without_pairs_is_said_to_have_none(folder):
    (folder / "val_pairs.csv").unlink()
    text = printed(folder, objective="KTO(beta=0.1)")
    assert "The validation data has no pairs" in text
    assert "nll_response" in text
    assert "accuracy:" not in text


def test_another_module_in_a_folder_without_anything_has_a_summary(tmp_path):
    bare = outcome(objective="ToyModule", speed=Speed(3.0), reports=[], notes=["There are no answers to show."])
    lines = [line.text for line in summary_lines(RunSummary.of_run(tmp_path, bare))]
    assert "ToyModule" in lines
    assert "  3.0 s in all" in lines
    assert not any("Try next" in line for line in lines)


def test_the_page_says_the_same_with_settings_and_picture(folder):
    (folder / "curves.png").touch()
    page = to_markdown(RunSummary.of_run(folder, outcome()))
    for part in (
        "# ORPO(lambda_=0.1",
        "| margin, nats/token |",
        "- margin: rose, the interval of its gain is above 0",
        "(curves.png)",
        "| model.policy.name_or_path | `smollm2` |",
        "| data.val | `a\\|b.jsonl` |",
        "- train: sample (text): 64 rows read",
        "```sh\n# DPO on the same data\norpo-lightning fit",
        LONG.strip(),
    ):
        assert part in page, part


def test_the_page_names_no_picture_that_is_not_there(folder):
    assert "curves.png" not in to_markdown(RunSummary.of_run(folder, outcome()))


def test_markup_in_an_answer_stays_text(folder):
    text = "~~~\n# A heading\n![picture](http://example.com/a.png)\n~~~~"
    write_answers(folder / "answers.jsonl", 24, [Answer(24, "a:1", "Name a colour.", text, finished=True)])
    page = to_markdown(RunSummary.of_run(folder, outcome()))
    assert f"~~~~~text\n{text}\n~~~~~" in page


def test_a_page_that_cannot_be_written_leaves_the_one_before(folder, monkeypatch):
    summary = RunSummary.of_run(folder, outcome())
    write_markdown(summary, folder / "summary.md")
    before = (folder / "summary.md").read_text()
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        write_markdown(summary, Path(folder / "summary.md"))
    assert (folder / "summary.md").read_text() == before


def test_answers_that_are_all_blank_are_said_in_one_sentence(folder):
    answers = [Answer(step, f"a:{row}", "Why?", " \n", False) for row in (1, 2) for step in (0, 8)]
    for step in (0, 8):
        write_answers(folder / "answers.jsonl", step, [each for each in answers if each.step == step])
    text = printed(folder)
    assert "All answers to the prompts are blank." in text
    assert "Why?" not in text
    page = to_markdown(RunSummary.of_run(folder, outcome()))
    assert "All answers to the prompts are blank." in page
    assert "Why?" not in page
