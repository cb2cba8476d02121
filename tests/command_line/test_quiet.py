"""An ordinary run prints its own lines alone, and warnings without the path of a source file."""

import logging
import warnings

import pytest

from orpo_lightning.command_line.quiet import quieten


@pytest.fixture(scope="module")
def ordinary_run(whole_run):
    """All that the command prints."""
    _, done = whole_run
    return done


def test_to_measure_says_which_weights_are_measured(orpo_lightning, notes, recwarn):
    orpo_lightning("fit", "--config=orpo", "--trainer.max_steps=2", "--data.limit=16", "--summary.enabled=false")
    notes.clear()
    orpo_lightning("validate", "--config=orpo")
    orpo_lightning("test", "--config=orpo", "--ckpt_path=last")
    lines = [line for line in notes if line.startswith(("validate: ", "test: "))]
    of = "ORPO(lambda_=0.1, nll_over='prompt_and_response', nll_mean='tokens') on tiny"
    assert lines == [
        f"validate: {of}; no checkpoint, the weights as loaded; cpu, 32-true",
        f"test: {of}; checkpoint runs/orpo/checkpoints/last.ckpt; cpu, 32-true",
    ]
    assert not any("Be aware that when using" in str(each.message) for each in recwarn)


def test_what_is_trained_is_said_in_one_line(ordinary_run):
    said = "trains 139,584 parameters; cpu, 32-true"
    (line,) = [line for line in ordinary_run.stderr.splitlines() if said in line]
    assert line.startswith("fit: ORPO(lambda_=0.1, nll_over='prompt_and_response', nll_mean='tokens') on tiny")


def test_nothing_is_printed_that_is_not_ours(ordinary_run):
    lines = ordinary_run.stderr.splitlines()
    account, others = lines[:11], lines[11:]
    assert account[0] == "train: sample (text)"
    assert [line.partition(" ")[0] for line in others] == ["warning:", "fit:", "the", "the"]
    for noise in ("Seed set", "GPU available", "LeafSpec", ".py:", "Modules in", "stopped:", "tip", "Tip"):
        assert noise not in ordinary_run.stdout + ordinary_run.stderr


def test_a_warning_of_ours_comes_without_a_path(ordinary_run):
    assert (
        "warning: with dropout the loss depends on how a global batch is split over micro-batches and ranks\n"
        in ordinary_run.stderr
    )


def test_the_summary_of_lightning_is_there_for_who_asks(orpo_lightning, capfd):
    options = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    orpo_lightning("fit", "--config=orpo", *options, "--trainer.enable_model_summary=true")
    assert "LogpModel" in capfd.readouterr().out


def test_a_fast_dev_run_says_nothing_of_loggers(orpo_lightning, recwarn):
    orpo_lightning("fit", "--config=orpo", "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false")
    assert not any("self.log" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(("said", "is_shown"), [("Failed to load CPU gemm_4bit_forward from %s", False), ("%s", True)])
def test_what_is_no_use_to_who_trains_in_4_bits_on_a_cpu_is_left_out(monkeypatch, said, is_shown):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        quieten()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    assert bool(logger.filter(logger.makeRecord(logger.name, logging.WARNING, "", 1, said, ("it",), None))) == is_shown


def test_warnings_of_others_come_through_and_name_the_package(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        quieten()
        site = "/usr/lib/site-packages/transformers/models/a.py"
        shown = warnings.formatwarning("weights are missing", UserWarning, site, 3)
        assert shown == "warning (transformers): weights are missing\n"
        assert warnings.formatwarning("mine", UserWarning, "/home/me/my_losses.py", 3) == "warning (my_losses): mine\n"
        with pytest.warns(UserWarning, match="weights are missing"):
            warnings.warn("weights are missing", stacklevel=1)
