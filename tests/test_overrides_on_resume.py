"""A setting that is another one when a run goes on is honoured and said, or refused by name; never ignored."""

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from helpers import slow_but

import orpo_lightning.data
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.modules import settings
from orpo_lightning.modules.settings import SETTINGS, check_changes

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
# 4 steps an epoch
BASE = [
    *(*QUIET, "--trainer.default_root_dir=run", "--data.limit=32", "--trainer.max_epochs=2"),
    *("--model.optimizer.lr=1e-3", "--model.schedule.name=linear", "--model.schedule.warmup=2"),
]
STOPPED = ["--trainer.callbacks=interrupting.SignalAt", "--trainer.callbacks.step=6"]
SAMPLE = Path(orpo_lightning.data.__file__).parent / "samples" / "train.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of runs by their options."""
    return tmp_path_factory.mktemp("stopped"), {}


@pytest.fixture
def go_on(orpo_lightning, made, caplog):
    """Stop a run after 6 of its 8 steps, go on with other settings, and give back all that was said."""
    folder, runs = made

    def run(*options, first=()):
        if first not in runs:
            with pytest.raises(SystemExit) as stopped:
                orpo_lightning("fit", *BASE, *first, *STOPPED)
            assert stopped.value.code == 75
            runs[first] = shutil.move("run", folder / str(len(runs)))
        shutil.copytree(runs[first], "run")
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
            orpo_lightning("fit", *BASE, *first, "--ckpt_path=last", *options)
        return caplog.text

    return run


def column(name):
    with Path("run/metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def last():
    return torch.load("run/checkpoints/last.ckpt", weights_only=True)


# longer texts, a model of the same kind
@pytest.fixture
def others(orpo_lightning):
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    Path("other.jsonl").write_text("\n".join(json.dumps(row | {"chosen": row["chosen"] + "!"}) for row in rows))
    load_causal_lm(PolicyConfig("tiny")).save_pretrained("other")
    load_tokenizer("tiny").save_pretrained("other")


def test_a_run_that_goes_on_as_it_was_has_nothing_to_say(go_on):
    assert "from step 6 on" not in go_on()
    assert list(column("train/loss")) == list(range(8))


FIRST = [
    *("--data.seed=7", "--data.train=other.jsonl", "--model.objective=SimPO", "--model.policy.lora.r=2"),
    *("--trainer.gradient_clip_val=0.01", "--trainer.accumulate_grad_batches=4", "--model.policy.dtype=float64"),
]
"""The options that the fast suite types too."""
REFUSED = {
    "--model.optimizer.algorithm=torch.optim.Adam": r"model.optimizer.algorithm = 'torch.optim.Adam', but the run of",
    "--model.optimizer.options={betas: [0.5, 0.9]}": r"model.optimizer.options = \{'betas': \[0.5, 0.9\]\}, but",
    "--data.seed=7": "data.seed or seed_everything = 7, but the run of the checkpoint has 0: the order of the data",
    "--seed_everything=7": "data.seed or seed_everything = 7, but the run of the checkpoint has 0",
    "--data.shuffle=false": "data.shuffle = False, but the run of the checkpoint has True",
    # as many steps an epoch as before
    "--data.global_batch_size=10": "data.global_batch_size = 10, but the run of the checkpoint has 8",
    "--data.global_batch_size=4": "4 optimizer steps an epoch, this run has 8.*data.global_batch_size",
    "--trainer.limit_train_batches=2": "4 optimizer steps an epoch, this run has 2.*trainer.limit_train_batches",
    "--data.train=other.jsonl": "data.train, as tokenized rows = '[0-9a-f]+', but the run of the checkpoint has",
    "--model.policy.name_or_path=other": "model.policy.name_or_path = '.*other', but the run of the checkpoint has 'ti",
    "--model.policy.revision=main": "model.policy.revision = 'main', but the run of the checkpoint has None",
    "--model.objective=SimPO": "a run goes on with its own objective",
    "--model.policy.lora.r=2": "this run has one: set model.policy.lora.r = 0",
}


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(("option", "sentence"), slow_but(FIRST, REFUSED.items()))
def test_what_cannot_be_honoured_is_refused_by_name(go_on, option, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        go_on(option)
    assert "\n" not in str(error.value)
    configs = [path.name for path in Path("run").glob("config*.yaml")]
    assert configs == ["config.yaml"]  # what was refused is none of the run's


LORA = {
    "--model.policy.load_in_4bit=true": "another base model .* set .*, model.policy.load_in_4bit and",
    "--model.policy.lora.r=2": r"model.policy.lora.r = 2, but the run of the checkpoint has 4",
    "--model.policy.lora.r=0": "set model.policy.lora as it was",
    "--model.policy.lora.alpha=8": r"model.policy.lora.alpha = 8.0, but the run of the checkpoint has 16.0",
    "--model.policy.lora.target_modules=[q_proj]": r"model.policy.lora.target_modules = \['q_proj'\], but the run",
    "--model.policy.lora.modules_to_save=[lm_head]": r"model.policy.lora.modules_to_save = \['lm_head'\], but the run",
}


@pytest.mark.parametrize(("option", "sentence"), slow_but(FIRST, LORA.items()))
def test_an_adapter_of_another_shape_is_refused_by_name(go_on, option, sentence):
    with pytest.raises(ValueError, match=sentence):
        go_on(option, first=("--model.policy.lora.r=4",))


def test_the_learning_rate_is_honoured_from_the_first_step(go_on):
    said = go_on("--model.optimizer.lr=5e-2")
    assert "model.optimizer.lr is 0.05 from step 6 on, and was 0.001" in said
    rates = column("train/learning_rate")
    # linear to 0 at 8, after 2 steps of warm-up
    assert [rates[step] for step in (5, 6, 7)] == pytest.approx([1e-3 * 3 / 6, 5e-2 * 2 / 6, 5e-2 * 1 / 6])


@pytest.mark.slow
def test_the_weight_decay_is_honoured_and_biases_and_norms_still_have_none(go_on):
    assert "model.optimizer.weight_decay is 0.5 from step 6 on, and was 0.0" in go_on(
        "--model.optimizer.weight_decay=0.5"
    )
    assert [group["weight_decay"] for group in last()["optimizer_states"][0]["param_groups"]] == [0.5, 0.0]


@pytest.mark.slow
def test_another_schedule_is_honoured_from_the_first_step(go_on):
    said = go_on("--model.schedule.name=constant", "--model.schedule.warmup=0")
    assert "model.schedule.name is 'constant' from step 6 on, and was 'linear'" in said
    assert "model.schedule.warmup is 0.0 from step 6 on, and was 2.0" in said
    rates = column("train/learning_rate")
    assert [rates[step] for step in (5, 6, 7)] == pytest.approx([1e-3 * 3 / 6, 1e-3, 1e-3])


@pytest.mark.slow
def test_a_longer_run_has_a_longer_schedule(go_on):
    said = go_on("--trainer.max_epochs=3")
    assert (
        "steps of the run (trainer.max_epochs, trainer.max_steps) is 12 from step 6 on, and was 8 (the schedule" in said
    )
    rates = column("train/learning_rate")
    assert list(rates) == list(range(12))
    assert [rates[step] for step in (5, 6, 11)] == pytest.approx([1e-3 * 3 / 6, 1e-3 * 6 / 10, 1e-3 * 1 / 10])


def test_arguments_of_the_objective_are_honoured(go_on, recwarn):
    go_on("--model.objective.lambda_=0.9")
    sentences = [str(each.message) for each in recwarn]
    assert any(
        "the run was of ORPO(lambda_=0.1" in each and "goes on as ORPO(lambda_=0.9" in each for each in sentences
    )
    others = "nll_over='prompt_and_response', nll_mean='tokens')"
    trained_by = f"ORPO(lambda_=0.1, {others} to step 6, then ORPO(lambda_=0.9, {others}"
    for page in ("run/summary.md", "run/model/README.md"):
        assert trained_by in Path(page).read_text()


HONOURED = {
    "--trainer.precision=bf16-mixed": "trainer.precision is 'bf16-mixed' from step 6 on, and was '32-true'",
    "--model.policy.compile_layers=true": "model.policy.compile_layers is True from step 6 on",
    "--model.layout=padded": "model.layout is 'padded' from step 6 on, and was 'auto' (the numbers are the same up to",
    "--trainer.gradient_clip_val=0.01": "trainer.gradient_clip_val is 0.01 from step 6 on, and was None",
    "--trainer.gradient_clip_algorithm=value": "trainer.gradient_clip_algorithm is 'value' from step 6 on",
    "--trainer.accumulate_grad_batches=4": "trainer.accumulate_grad_batches is 4 from step 6 on, and was 1 (the",
    "--model.policy.dtype=float64": "model.policy.dtype is 'float64' from step 6 on, and was 'float32' (weights",
    "--model.policy.gradient_checkpointing=true": "model.policy.gradient_checkpointing is True from step 6 on",
    "--model.policy.attn_implementation=eager": "model.policy.attn_implementation is 'eager' from step 6 on",
    "--model.policy.attention_kernel=blocks": "model.policy.attention_kernel is 'blocks' from step 6 on",
    "--model.policy.disable_dropout=false": "model.policy.disable_dropout is False from step 6 on",
    "--data.val=other.jsonl": "(measures of before and after it do not compare)",
}


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("option", "sentence"),
    slow_but(FIRST, HONOURED.items()),
)
def test_what_holds_from_here_on_is_said(go_on, option, sentence):
    assert sentence in go_on(option)
    assert last()["global_step"] == 8


@pytest.mark.slow
def test_a_mode_of_the_reference_and_a_dropout_of_the_adapter_are_honoured(go_on):
    first = ("--model.objective=DPO", "--model.policy.lora.r=4")
    said = go_on("--model.reference.mode=copy", "--model.policy.lora.dropout=0.5", first=first)
    assert "model.reference.mode is 'copy' from step 6 on, and was 'auto'" in said
    assert "model.policy.lora.dropout is 0.5 from step 6 on, and was 0.0" in said


@pytest.mark.slow
def test_another_measure_of_the_best_checkpoint_is_honoured(go_on):
    said = go_on("--checkpoint.monitor=val/pref/margins")
    assert "checkpoint.monitor is val/pref/margins (max) from here on, and was val/pref/accuracies (max)" in said


@pytest.mark.slow
def test_a_model_that_has_been_moved_since_is_not_another_one(go_on, others):
    first = ("--model.policy.name_or_path=other",)
    shutil.copytree("other", "moved")
    with pytest.raises(ValueError, match=r"model.policy.name_or_path = '.*moved', but the run of the checkpoint has"):
        go_on("--model.policy.name_or_path=moved", first=first)
    shutil.rmtree("run")
    shutil.rmtree("other")
    said = go_on("--model.policy.name_or_path=moved", first=first)
    assert "moved' from step 6 on, and was" in said


def test_a_kernel_that_only_a_gpu_runs_is_honoured(monkeypatch):
    said = []
    monkeypatch.setattr(settings, "rank_zero_info", said.append)
    check_changes({"model.policy.head_kernel": "blocks"}, {"model.policy.head_kernel": "liger"}, step=6)
    assert said == [
        "model.policy.head_kernel is 'liger' from step 6 on, and was 'blocks' (the numbers are the same up to rounding)"
    ]


def test_every_setting_of_the_table_has_a_test():
    tested = " ".join([*REFUSED, *LORA, *HONOURED, Path(__file__).read_text()])
    for setting in SETTINGS:
        name = setting.name.removeprefix("steps of the run (").split(",")[0].split(" or ")[0]
        assert name in tested or name == "number of processes" or name == "model.policy.lora.adapter", name
