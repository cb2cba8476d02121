"""Values out of range are refused by name before a model or a tokenizer is loaded, and before data is read."""

from pathlib import Path

import pytest

from orpo_lightning.data import datamodule


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
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
        (["--data.num_workers=-1"], "data.num_workers = -1 is out of range; accepted: 0 or more"),
        (["--model.optimizer.lr=-1"], "model.optimizer.lr = -1.0 is out of range; accepted: 0 or more"),
        (["--model.optimizer.weight_decay=-1"], "model.optimizer.weight_decay = -1.0 is out of range"),
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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_refused_by_name_before_anything_loads(refusal, monkeypatch, arguments, said):
    monkeypatch.setattr(datamodule, "load_validation", lambda *args: pytest.fail("data was read"))
    # as in a process of a launched run: the trainer starts no other
    monkeypatch.setenv("LOCAL_RANK", "0")
    message = refusal("fit", "--config", "orpo", "--trainer.accelerator=cpu", *arguments)
    assert message.startswith(said)
    assert len(message.splitlines()) == 1


def test_the_window_of_the_prompt_follows_that_of_the_conversation_where_it_is_not_given(orpo_lightning, capsys):
    orpo_lightning("data", "--data.max_length=100", "--dropped=prompt_too_long")
    assert "tokens, data.max_prompt_length is 50" in capsys.readouterr().out
    assert datamodule.PreferenceDataModule(max_length=40).limits.max_prompt_length == 20
    assert datamodule.PreferenceDataModule().limits.max_prompt_length == 512


def test_a_fit_that_nothing_ends_says_what_to_type(refusal):
    said = "nothing says how long to train: set trainer.max_epochs or trainer.max_steps, or start from a whole config"
    assert refusal("fit").startswith(said)
    assert refusal("fit", "--model.objective=DPO").startswith(said)
    assert "--config NAME, one of: dpo, ipo, kto, orpo, quickstart, sft, simpo" in refusal("fit")


def test_a_refused_fit_leaves_no_folder_and_says_nothing_of_one(refusal, notes):
    assert refusal("fit", "--config=orpo", "--data.max_length=3").startswith("data.max_length = 3")
    assert not Path("runs").exists()
    Path("runs/orpo/checkpoints").mkdir(parents=True)
    Path("runs/orpo/metrics.csv").touch()
    assert refusal("fit", "--config=orpo", "--data.max_length=3").startswith("data.max_length = 3")
    assert [path.name for path in Path("runs").iterdir()] == ["orpo"]
    assert not notes
