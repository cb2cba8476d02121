"""Values out of range are refused by name before a model or a tokenizer is loaded, and before data is read."""

from pathlib import Path

import pytest
from helpers import one_in
from jsonargparse import ArgumentParser
from lightning import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from orpo_lightning.command_line.trainer_settings import check_trainer
from orpo_lightning.data import datamodule

OUT_OF_RANGE = [
    (["--model.objective.lambda_=-0.1"], "ORPO: lambda_ = -0.1 is out of range; accepted: [0, inf)"),
    (
        ["--model.objective=DPO", "--model.objective.label_smoothing=0.7"],
        "DPO: label_smoothing = 0.7 is out of range; accepted: [0, 0.5)",
    ),
    (
        ["--model.objective=RobustDPO", "--model.objective.label_smoothing=0.5"],
        "RobustDPO: label_smoothing = 0.5 is out of range; accepted: [0, 0.5)",
    ),
    (
        ["--model.objective=CPO", "--model.objective.label_smoothing=0.7"],
        "CPO: label_smoothing = 0.7 is out of range; accepted: [0, 0.5)",
    ),
    *(
        (
            [f"--model.objective={name}", "--model.objective.beta=0"],
            f"{name}: beta = 0.0 is out of range; accepted: (0, inf)",
        )
        for name in ("DPO", "RobustDPO", "HingeDPO", "SimPO", "CPO", "KTO")
    ),
    (["--model.objective=IPO", "--model.objective.tau=0"], "IPO: tau = 0.0 is out of range; accepted: (0, inf)"),
    (
        ["--model.objective=ProbabilityRatio", "--model.objective.beta=0"],
        "ProbabilityRatio: beta = 0.0 is out of range",
    ),
    (["--model.objective=SimPO", "--model.objective.gamma=-1"], "SimPO: gamma = -1.0 is out of range"),
    (["--model.objective=CPO", "--model.objective.alpha=-1"], "CPO: alpha = -1.0 is out of range"),
    (["--model.objective.lambda_=.nan"], "ORPO: lambda_ = nan is out of range"),
    (["--data.global_batch_size=0"], "data.global_batch_size = 0 is out of range; accepted: 1 or more"),
    (["--data.max_length=3"], "data.max_length = 3 is out of range; accepted: 8 or more"),
    (
        ["--data.max_prompt_length=512"],
        "data.max_prompt_length = 512 leaves no room for a response in data.max_length = 512; accepted: 1 to 511, "
        "or null for half",
    ),
    (
        ["--data.max_length=256", "--data.max_prompt_length=256"],
        "data.max_prompt_length = 256 leaves no room for a response in data.max_length = 256; accepted: 1 to 255, "
        "or null for half",
    ),
    (["--data.limit=0"], "data.limit = 0 is out of range; accepted: 1 or more"),
    (["--data.seed=-1"], "data.seed = -1 is out of range; accepted: 0 or more"),
    (["--data.max_tokens_per_batch=0"], "data.max_tokens_per_batch = 0 is out of range; accepted: 1 or more"),
    *(
        ([f"--trainer.{setting}={value}"], f"trainer.{setting} = {value} is out of range; accepted: {accepted}")
        for setting, value, accepted in (
            ("accumulate_grad_batches", 0, "1 or more"),
            ("check_val_every_n_epoch", 0, "1 or more, or null"),
            ("devices", 0, "1 or more, a list of devices"),
            ("gradient_clip_algorithm", "foo", "norm, value"),
            ("gradient_clip_val", -1, "0 or more, or null"),
            ("limit_train_batches", 0, "a number of batches, or a share of them up to 1.0"),
            ("limit_val_batches", -1, "a number of batches, or a share of them up to 1.0"),
            ("limit_test_batches", 1.5, "a number of batches, or a share of them up to 1.0"),
            ("max_epochs", 0, "1 or more, or -1 for no limit"),
            ("max_steps", -5, "1 or more, or -1 for no limit"),
            ("max_time", "abc", "days:hours:minutes:seconds, such as 00:08:00:00"),
            ("num_nodes", 0, "1 or more"),
            ("num_sanity_val_steps", -3, "0 or more, or -1 for all"),
            ("val_check_interval", 0, "a number of micro-batches, or a share of an epoch up to 1.0"),
            ("val_check_interval", 1.5, "a number of micro-batches, or a share of an epoch up to 1.0"),
        )
    ),
    *(
        ([f"--export.folder={name}"], f"export.folder = {name!r}; accepted: a name in the run folder that nothing")
        for name in ("", ".", "..", "../mine", "/tmp", "a/b", "checkpoints", "config.yaml", ".run.lock")
    ),
    (["--data.num_workers=-1"], "data.num_workers = -1 is out of range; accepted: 0 or more"),
    (["--model.optimizer.lr=-1"], "model.optimizer.lr = -1.0 is out of range; accepted: 0 or more"),
    (["--model.optimizer.weight_decay=-1"], "model.optimizer.weight_decay = -1.0 is out of range"),
    (
        ["--model.optimizer.options={beta: 1}"],
        "model.optimizer.options: AdamW got an unexpected keyword argument 'beta'; accepted: lr, betas, eps",
    ),
    (["--model.optimizer.options={lr: 1}"], "model.optimizer.options: lr is no further argument of the class"),
    (["--model.optimizer.algorithm=torch.optim.AdamWW"], "model.optimizer.algorithm = 'torch.optim.AdamWW' is not"),
    (["--model.schedule.warmup=1.5"], "model.schedule.warmup = 1.5; accepted: a share of all steps in [0, 1)"),
    (["--model.policy.lora.dropout=1"], "model.policy.lora.dropout = 1.0 is out of range; accepted: [0, 1)"),
    (
        ["--data.global_batch_size=4", "--trainer.accumulate_grad_batches=8"],
        "data.global_batch_size = 4 is less than one row for each of 1 ranks x trainer.accumulate_grad_batches = 8"
        "; accepted: 8 or more",
    ),
    (
        ["--data.global_batch_size=3", "--trainer.accumulate_grad_batches=2", "--trainer.devices=2"],
        "data.global_batch_size = 3 is less than one row for each of 2 ranks x trainer.accumulate_grad_batches = 2"
        "; accepted: 4 or more",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "said"),
    one_in(3, OUT_OF_RANGE),
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_refused_by_name_before_anything_loads(refusal, monkeypatch, arguments, said):
    monkeypatch.setattr(datamodule, "load_validation", lambda *args: pytest.fail("data was read"))
    # as in a process of a launched run: the trainer starts no other
    monkeypatch.setenv("LOCAL_RANK", "0")
    message = refusal("fit", "--config", "orpo", "--trainer.accelerator=cpu", *arguments)
    assert message.startswith(said)
    assert len(message.splitlines()) == 1


def test_an_accelerator_that_is_not_here_is_refused_by_name(refusal, monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", lambda: False)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: False)
    said = "trainer.accelerator = gpu: there is none here; accepted: cpu, auto"
    assert refusal("fit", "--config=orpo", "--config=trainer/gpu_bf16") == said


def test_the_window_of_the_prompt_follows_that_of_the_conversation_where_it_is_not_given(orpo_lightning, capsys):
    orpo_lightning("data", "--data.max_length=100", "--dropped=prompt_too_long")
    assert "tokens, data.max_prompt_length is 50" in capsys.readouterr().out
    assert datamodule.PreferenceDataModule(max_length=40).limits.max_prompt_length == 20
    assert datamodule.PreferenceDataModule().limits.max_prompt_length == 512


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("val_check_interval", (1, 0.5, 1.0)),
        ("limit_val_batches", (0, 1, 0.5)),
        ("max_time", ("00:01:00:00", "{hours: 1}")),
        ("devices", (1, "auto", -1)),
        ("gradient_clip_val", (0, 0.5, "null")),
        ("num_sanity_val_steps", (0, -1)),
    ],
)
def test_the_ends_of_the_ranges_of_the_trainer_are_accepted(setting, values):
    parser = ArgumentParser()
    parser.add_class_arguments(Trainer)
    for value in values:
        check_trainer(parser.parse_args([f"--{setting}={value}"]))


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("fsdp", "trainer.strategy = fsdp needs GPUs; on CPUs there are fsdp2 and ddp"),
        ('{"class_path": "FSDP1Strategy"}', "trainer.strategy = FSDP1Strategy needs GPUs"),
        ('{"class_path": "ModelParallelStrategy"}', "trainer.strategy = ModelParallelStrategy is Lightning's, which"),
        ('{"class_path": "lightning.pytorch.strategies.FSDPStrategy"}', "FSDPStrategy is Lightning's, which does not"),
        ("fsdp3", "trainer.strategy = fsdp3 is not known; did you mean fsdp"),
    ],
)
def test_strategies_that_would_fail_late_or_share_nothing_out_are_refused(refusal, strategy, reason):
    assert reason in refusal("fit", "--config=orpo", "--trainer.accelerator=cpu", f"--trainer.strategy={strategy}")


@pytest.mark.parametrize(("setting", "value"), [("state_dict_type", "whole"), ("synchronize", "never")])
def test_a_value_that_a_strategy_does_not_know_is_refused(refusal, setting, value):
    said = refusal("fit", "--config=trainer/fsdp2", f"--trainer.strategy.{setting}={value}", "--trainer.max_epochs=1")
    assert value in said
    assert "accepted" in said or "Expected" in said


def test_a_fit_that_nothing_ends_says_what_to_type(refusal):
    said = "nothing says how long to train: set trainer.max_epochs or trainer.max_steps, or start from a whole config"
    assert refusal("fit").startswith(said)
    assert refusal("fit", "--model.objective=DPO").startswith(said)
    assert refusal("fit", "--trainer.max_epochs=-1").startswith(said)
    assert "--config NAME, one of: dpo, ipo, kto, orpo, quickstart, sft, simpo" in refusal("fit")


def test_a_refused_fit_leaves_no_folder_and_says_nothing_of_one(refusal, notes):
    assert refusal("fit", "--config=orpo", "--data.max_length=3").startswith("data.max_length = 3")
    assert not Path("runs").exists()
    Path("runs/orpo/checkpoints").mkdir(parents=True)
    Path("runs/orpo/metrics.csv").touch()
    assert refusal("fit", "--config=orpo", "--data.max_length=3").startswith("data.max_length = 3")
    assert [path.name for path in Path("runs").iterdir()] == ["orpo"]
    assert not notes
