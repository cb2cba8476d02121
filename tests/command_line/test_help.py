"""The help is short, taken from the docstrings, and says where the rest is."""

import re
from importlib.metadata import version

import pytest

from orpo_lightning.modules.optimization import OptimizerConfig


@pytest.fixture
def help_of(orpo_lightning, capsys):
    def run(*arguments):
        orpo_lightning(*arguments)
        return capsys.readouterr().out

    return run


def test_the_help_of_fit_lists_what_is_relied_on(help_of, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of("fit", "--help")
    shown = [line.split()[0][2:] for line in text.splitlines() if line.startswith("  --")]
    assert {
        *("config", "print_config", "seed_everything", "ckpt_path", "model.objective", "model.objective.lambda_"),
        *("model.policy.name_or_path", "model.policy.revision", "model.policy.dtype", "model.policy.lora.r"),
        *("model.policy.attn_implementation", "model.policy.gradient_checkpointing", "model.reference.name_or_path"),
        *("model.layout", "model.optimizer.lr", "model.schedule.name", "data.train", "data.val", "data.format"),
        *("data.columns", "data.filters", "data.global_batch_size", "data.max_length", "data.max_prompt_length"),
        *("data.overlong", "data.max_tokens_per_batch", "data.limit", "data.num_workers", "data.seed"),
        *("trainer.max_epochs", "trainer.max_steps", "trainer.accumulate_grad_batches", "trainer.precision"),
        *("checkpoint.every_n_steps", "checkpoint.monitor", "export.enabled", "summary.prompts"),
        "health.patience",
    } <= set(shown)
    assert "(eq. 2; the authors' code; TRL)" in " ".join(text.split())
    assert "null reads all" in " ".join(text.split())
    assert "None" not in text
    for line in re.split(r"\n  --", text):
        assert line.count("(") == line.count(")"), line
    assert "peak learning rate [5e-06]" in text
    assert "peak learning rate" in OptimizerConfig.__doc__
    assert "ORPO, ProbabilityRatio, RobustDPO" in " ".join(text.split())
    assert "--trainer.help" in text
    assert len(text.splitlines()) <= 150
    assert max(map(len, text.splitlines())) <= 100
    assert "`" not in text


def test_the_help_of_data_leaves_the_trainer_out(help_of):
    text = help_of("data", "-h")
    assert "--data.max_length" in text
    assert "--show" in text
    assert "--trainer.m" not in text
    assert "model.policy.lora" not in text


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_the_other_verbs_have_it_too(help_of, verb):
    assert "checkpoint to measure: a file, last or best" in help_of(verb, "--help")


@pytest.mark.parametrize(
    ("option", "key", "text"),
    [
        (["--model.objective.help", "DPO"], "--model.objective.beta", "probability that a label is flipped"),
        (["--model.objective.help"], "--model.objective.lambda_", "weight of the odds ratio term"),
        (["--model.help"], "--model.policy.lora.adapter", "the dropout is the one given here"),
        (["--model.help", "PreferenceModule"], "--model.reference.mode", "All give the same numbers"),
        (["--data.help=PreferenceDataModule"], "--data.tokenizer_revision", "On the command line it is the policy's"),
        (["--trainer.help"], "--trainer.reload_dataloaders_every_n_epochs", "reload dataloaders"),
    ],
)
def test_each_block_is_described_in_full(help_of, option, key, text):
    printed = help_of("fit", *option)
    assert key in printed
    assert text in " ".join(printed.split())


def test_the_help_of_an_unknown_class_is_refused(refusal):
    assert refusal("fit", "--model.help", "Nothing") == (
        "--model.help Nothing: no LightningModule is named so; give the path of a class"
    )


def test_the_version_is_that_of_the_package(help_of):
    assert help_of("--version") == f"orpo-lightning {version('orpo-lightning')}\n"


@pytest.mark.parametrize(("word", "verb"), [("train", "fit"), ("evaluate", "validate"), ("fitt", "fit")])
def test_a_word_that_is_no_verb_is_answered_with_the_one_that_is_meant(refusal, word, verb):
    assert refusal(word) == f"no verb is named {word!r}; did you mean {verb!r}?"
