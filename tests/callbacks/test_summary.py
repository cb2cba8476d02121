"""What a fit of the command leaves behind and says at its end."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import environment_with_tests, run
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

from orpo_lightning import ORPO, PolicyConfig, PreferenceDataModule, PreferenceModule
from orpo_lightning.callbacks import answers as module
from orpo_lightning.callbacks.answers import answer_prompts
from orpo_lightning.callbacks.summary import Summary
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.summary.answers import read_answers
from orpo_lightning.summary.pairs import read_pairs
from orpo_lightning.summary.series import read_series
from orpo_lightning.testing import make_rows

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.enable_model_summary=false"]

FEW = ["--trainer.max_epochs=1", "--data.limit=24", "--summary.max_new_tokens=5", *QUIET]


@pytest.fixture(scope="module")
def fitted(whole_run):
    """The folder of a run of the command, and what it printed."""
    folder, done = whole_run
    return folder / "runs" / "orpo", done.stdout


def test_a_run_leaves_its_summary_with_everything_that_it_names(fitted):
    folder, printed = fitted
    names = {"summary.md", "curves.png", "metrics.csv", "val_pairs.csv", "answers.jsonl", "data_report.json"}
    names |= {"run.json", "report.html"}
    shown = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names | {"config.yaml", "checkpoints", "model"} == shown
    named = re.findall(r"^  (\S+?)/?  +\S", printed.partition("In runs/orpo\n")[2].partition("Try next")[0], re.M)
    assert set(named) == shown


def test_what_is_printed_fits_into_80_columns(fitted):
    _, printed = fitted
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed


def test_the_values_before_and_after_are_those_of_the_files(fitted):
    folder, printed = fitted
    series, pairs = read_series(folder / "metrics.csv"), read_pairs(folder / "val_pairs.csv")
    margins = series["val/pref/margins"].values
    assert series["val/pref/margins"].steps[0] == 0
    before = [pair.margin for pair in pairs if pair.step == 0]
    after = [pair.margin for pair in pairs if pair.step == 32]
    assert len(before) == len(after) == 40
    assert sum(before) / 40 == pytest.approx(margins[0])
    assert sum(after) / 40 == pytest.approx(margins[-1])
    (line,) = (line for line in printed.splitlines() if line.startswith("  margin "))
    gain = margins[-1] - margins[0]
    assert line.split() == ["margin", f"{margins[0]:.3f}", f"{margins[-1]:.3f}", f"{gain:+.3f}"]


def test_two_prompts_are_answered_before_the_first_step_and_after_the_last(fitted):
    folder, printed = fitted
    found = read_answers(folder / "answers.jsonl")
    first = [f"sample/validation:{i}" for i in (1, 2)]
    assert [(answer.step, answer.row_id) for answer in found] == [(step, row) for step in (0, 32) for row in first]
    assert not any(answer.prompt.startswith("<") for answer in found)
    # those of the tiny model are
    assert "All answers to the prompts are blank." in printed


def test_the_rows_of_the_machine_are_in_the_metrics_and_not_in_the_card(fitted):
    folder, _ = fitted
    series = read_series(folder / "metrics.csv")
    assert len(series["time/step_s"].steps) == 32
    assert "memory/peak_gb" in series
    card = (folder / "model" / "README.md").read_text()
    assert "train/loss" in card
    assert "time/" not in card
    assert "memory/" not in card


def test_the_page_shows_the_picture_and_the_settings(fitted):
    folder, _ = fitted
    page = (folder / "summary.md").read_text()
    assert "](curves.png)" in page
    assert "| model.optimizer.lr | `0.001` |" in page
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def commands_of(printed):
    text = printed.partition("Try next\n")[2].replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip().startswith("orpo-lightning")]


@pytest.mark.slow
def test_every_command_that_it_names_runs_as_it_is_printed(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW)
    commands = commands_of(capsys.readouterr().out)
    assert [command[1] for command in commands] == ["fit", "fit", "fit", "generate"]
    row = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
    for name in ("train.jsonl", "val.jsonl"):
        Path(name).write_text(json.dumps(row | {"prompt": name}) + "\n")
    Path("prompts.txt").write_text("Name a colour.\n")
    for command in commands:
        orpo_lightning(*command[1:])
    folders = [command[-1] for command in commands if command[1] == "fit"]
    assert folders == ["runs/dpo", "runs/own-data", "runs/orpo-lambda-0.2"]
    dpo, own, strength = (yaml.safe_load((Path(each) / "config.yaml").read_text()) for each in folders)
    assert dpo["model"]["init_args"]["objective"]["class_path"] == "orpo_lightning.DPO"
    assert own["data"]["init_args"]["train"] == "train.jsonl"
    assert strength["model"]["init_args"]["objective"]["init_args"]["lambda_"] == 0.2
    assert len(Path("generated.jsonl").read_text().splitlines()) == 1


def weights_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--model.policy.gradient_checkpointing=true"],
        ["--config", CONFIGS / "model" / "lora.yaml", "--model.policy.lora.dropout=0.3"],
        ["--model.layout=padded", "--trainer.precision=bf16-mixed"],
    ],
    ids=["gradient checkpointing", "adapter with dropout", "padded in bf16"],
)
def test_the_answers_change_no_bit_of_the_training(orpo_lightning, options):
    for folder, prompts in (("with", 3), ("without", 0)):
        orpo_lightning(
            *("fit", "--config", CONFIGS / "orpo.yaml", *options, *FEW, f"--summary.prompts={prompts}"),
            *("--trainer.default_root_dir", folder, "--trainer.enable_progress_bar=false"),
        )
    assert len(read_answers(Path("with/answers.jsonl"))) == 6
    assert not Path("without/answers.jsonl").exists()
    one, other = (Path(folder) / "checkpoints" / "last.ckpt" for folder in ("with", "without"))
    expected = weights_of(other)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(one).items())


def test_answering_leaves_every_part_of_the_policy_in_its_mode(tmp_path):
    seen = []

    class Asks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            # a part that is kept in eval mode, as some adapters keep some of theirs
            next(iter(pl_module.policy.net.children())).eval()
            before = {name: part.training for name, part in pl_module.policy.named_modules()}
            state = torch.get_rng_state()
            answer_prompts(trainer, pl_module, 1, 3)
            after = {name: part.training for name, part in pl_module.policy.named_modules()}
            seen.append((before == after, torch.equal(state, torch.get_rng_state()), len(set(before.values()))))

    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        callbacks=[Asks()],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    data = PreferenceDataModule(tokenizer="tiny", max_length=512, max_prompt_length=256)
    trainer.fit(PreferenceModule(ORPO(), PolicyConfig("tiny", lora=LoraConfig(r=2))), data)
    assert seen == [(True, True, 2)]


def test_switched_off_there_is_no_summary_and_no_answer(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--summary.enabled=false")
    assert "Try next" not in capsys.readouterr().out
    assert not {"summary.md", "curves.png", "answers.jsonl"} & {path.name for path in Path("runs/orpo").iterdir()}


def test_a_fast_dev_run_has_none(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--trainer.fast_dev_run=2")
    assert "Try next" not in capsys.readouterr().out
    assert not Path("runs/orpo").exists()


def test_without_validation_it_says_so(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--data.val=null")
    printed = " ".join(capsys.readouterr().out.split())
    assert "No preference pairs were validated" in printed
    assert "there is no validation data to take prompts from" in printed
    assert "accuracy:" not in printed


def test_without_a_sanity_check_there_is_no_before(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--trainer.num_sanity_val_steps=0")
    printed = capsys.readouterr().out
    assert 'There is no "before"' in printed
    assert "before training" not in printed
    assert {pair.step for pair in read_pairs(Path("runs/orpo/val_pairs.csv"))} == {3}


@pytest.mark.slow
def test_a_run_that_goes_on_still_has_its_before(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW)
    capsys.readouterr()
    orpo_lightning(*("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--trainer.max_epochs=2", "--ckpt_path=last"))
    printed = capsys.readouterr().out
    assert "6 of 6 optimizer steps" in printed
    assert 'There is no "before"' not in printed
    assert [answer.step for answer in read_answers(Path("runs/orpo/answers.jsonl"))] == [0, 0, 3, 3, 6, 6]
    assert {pair.step for pair in read_pairs(Path("runs/orpo/val_pairs.csv"))} == {0, 3, 6}
    assert "  3 steps of" in printed


def test_unpaired_data_has_a_summary_without_pairs(orpo_lightning, capsys):
    rows = [{"prompt": f"Say {i}.", "completion": str(i), "label": bool(i % 2)} for i in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    orpo_lightning(
        *("fit", "--config", CONFIGS / "kto.yaml", *FEW, "--data.train=rows.jsonl", "--data.val=rows.jsonl"),
    )
    printed = capsys.readouterr().out
    assert "The validation data has no pairs" in printed
    assert "rewards/margins" in printed
    assert not Path("runs/kto/val_pairs.csv").exists()


def test_a_run_that_max_steps_cut_short_is_complete_and_one_that_a_callback_ended_is_not(tmp_path, capsys):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 2

    run(ORPO(), max_steps=2, callbacks=[Summary()], default_root_dir=tmp_path / "short")
    assert "\n  2 of 2 optimizer steps" in capsys.readouterr().out
    run(ORPO(), callbacks=[Stops(), Summary()], default_root_dir=tmp_path / "stopped")
    assert "\n  stopped after 2 of 6 optimizer steps" in capsys.readouterr().out


def test_sharded_weights_are_not_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "FSDPStrategy", object)
    run(ORPO(), validation=make_rows(4), callbacks=[Summary()], default_root_dir=tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "There are no answers to show: no process has all of the weights while the run lasts." in printed
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "model"),
    [((), "run/model"), (("--export.enabled=false",), "run"), (("--trainer.enable_checkpointing=false",), None)],
    ids=["its model", "its checkpoint", "neither"],
)
def test_of_a_run_that_shared_its_weights_out_the_command_for_answers_takes_what_is_there(tmp_path, options, model):
    def orpo_lightning(*words):
        return subprocess.run(
            [sys.executable, "-m", "orpo_lightning", *words],
            cwd=tmp_path,
            env=environment_with_tests(),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    two = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=fsdp2")
    done = orpo_lightning("fit", "--config=orpo", *FEW, *two, "--trainer.default_root_dir=run", *options)
    assert done.returncode == 0, done.stderr
    summary = (tmp_path / "run" / "summary.md").read_text()
    assert "no process has all of the weights" in summary
    assert not re.search("^orpo-lightning export", summary, re.MULTILINE)
    found = re.search(r"^orpo-lightning (generate .*)", summary.replace("\\\n", ""), re.MULTILINE)
    if model is None:
        assert found is None
        return
    words = shlex.split(found[1])
    assert words[:3] == ["generate", "--model", model]
    (tmp_path / "prompts.txt").write_text("Say it.\n")
    done = orpo_lightning(*words, "--max-new-tokens=4")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "generated.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_does_not_fail_a_run_that_is_done(tmp_path, monkeypatch, recwarn):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("orpo_lightning.callbacks.summary.write_markdown", full)
    run(ORPO(), callbacks=[Summary(prompts=0)], default_root_dir=tmp_path)
    assert any("the summary of the run could not be written: no space left" in str(each.message) for each in recwarn)


@pytest.mark.parametrize(("writer", "file"), [("draw_curves", "curves.png"), ("write_page", "report.html")])
def test_a_picture_that_cannot_be_drawn_does_not_fail_a_run_that_is_done(orpo_lightning, monkeypatch, writer, file):
    def broken(*args):
        raise TypeError("no such font")

    monkeypatch.setattr(f"orpo_lightning.callbacks.summary.{writer}", broken)
    with pytest.warns(
        UserWarning, match=rf"{file} could not be written \(TypeError: no such font\); the run itself is"
    ):
        orpo_lightning("fit", "--config=orpo", "--trainer.max_steps=2", "--summary.prompts=0", "--trainer.logger=false")
    assert not Path("runs/orpo", file).exists()
    assert "## Validation" in Path("runs/orpo/summary.md").read_text()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--summary.prompts=-1", "summary.prompts = -1 is out of range; accepted: 0 or more"),
        ("--summary.max_new_tokens=0", "summary.max_new_tokens = 0 is out of range; accepted: 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(orpo_lightning, option, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", option)


@pytest.mark.slow
def test_a_users_own_bar_is_kept(orpo_lightning, monkeypatch):
    bars = []
    monkeypatch.setattr(
        RichProgressBar, "on_train_start", lambda self, trainer, _: bars.append(type(trainer.progress_bar_callback))
    )
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--trainer.callbacks+=RichProgressBar")
    assert bars == [RichProgressBar]


@pytest.mark.slow
def test_the_progress_can_be_switched_off(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *FEW, "--trainer.enable_progress_bar=false")
    assert "step 1/32" not in capsys.readouterr().out


def test_an_interrupt_from_the_keyboard_ends_with_an_account_of_what_there_is(orpo_lightning, monkeypatch, capsys):
    trained = PreferenceModule.training_step

    def interrupted(self, *args):
        if self.global_step == 12:
            raise KeyboardInterrupt
        return trained(self, *args)

    monkeypatch.setattr(PreferenceModule, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--trainer.val_check_interval=8", *QUIET)
    finally:
        signal.signal(signal.SIGINT, before)  # the trainer ignores further ones
    printed = capsys.readouterr().out
    assert "interrupted after 12 of 32 optimizer steps" in printed
    assert '"after" is after step 8, the last one that was validated.' in printed
    assert "--ckpt_path last" in printed
    assert [answer.step for answer in read_answers(Path("runs/orpo/answers.jsonl"))] == [0, 0]
    assert "interrupted after 12" in Path("runs/orpo/summary.md").read_text().lower()
    assert not Path("runs/orpo/model").exists()
