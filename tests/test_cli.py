"""The command line, as a user types it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import slow

from orpo_lightning.__main__ import console
from orpo_lightning.models import building

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = [*QUIET, "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.enable_checkpointing=false"]
USERS_LOSS = '''
from orpo_lightning import Objective, ObjectiveOutput, PairLogps


class SquaredMargin(Objective):
    """Squared distance of the margin of mean log-probabilities to a target.

    Args:
        width: target margin, nats/token.
    """

    def __init__(self, width: float = 0.5) -> None:
        self.width = width

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        margin = policy.chosen_mean - policy.rejected_mean
        return ObjectiveOutput((margin - self.width) ** 2, policy.chosen_mean.detach(), policy.rejected_mean.detach())
'''


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    of_the_machine = ("time/", "memory/")  # what differs between two equal runs
    return [{name: value for name, value in row.items() if not name.startswith(of_the_machine)} for row in rows]


def objective_of(folder):
    return yaml.safe_load((Path(folder) / "config.yaml").read_text())["model"]["init_args"]["objective"]


def test_one_option_swaps_the_objective_and_another_sets_its_argument(orpo_lightning):
    swap = ["--model.objective", "DPO", "--model.objective.beta", "0.2"]
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *swap, *SHORT)
    assert objective_of("runs/orpo") == {
        "class_path": "orpo_lightning.DPO",
        "init_args": {"beta": 0.2, "label_smoothing": 0.0, "length_normalized": False},
    }
    assert float(metrics("runs/orpo")[0]["train/loss"]) == pytest.approx(0.6931472)


@pytest.mark.parametrize(
    ("objective", "defaults"),
    [
        ("IPO", {"tau": 0.1, "length_normalized": True}),
        ("SimPO", {"beta": 2.0, "gamma": 1.0}),
        ("HingeDPO", {"beta": 0.1, "length_normalized": False}),
    ],
)
def test_a_swapped_objective_starts_from_its_own_defaults(orpo_lightning, capsys, objective, defaults):
    # DPO and these share argument names; the parser would hand DPO's values on
    with pytest.raises(SystemExit):
        orpo_lightning(
            *("fit", "--config", CONFIGS / "dpo.yaml", "--model.objective.beta=0.7"),
            *("--model.objective", objective, "--print_config"),
        )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["objective"]["init_args"] == defaults


def test_arguments_after_the_swap_are_the_new_objectives(orpo_lightning, capsys):
    with pytest.raises(SystemExit):
        orpo_lightning(
            *("fit", "--config", CONFIGS / "dpo.yaml", "--config", CONFIGS / "orpo.yaml"),
            *("--model.objective", "SimPO", "--model.objective.beta=2.5", "--print_config"),
        )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["objective"]["init_args"] == {"beta": 2.5, "gamma": 1.0}


def test_a_cached_reference_is_computed_once_for_all_runs(orpo_lightning, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("ORPO_LIGHTNING_CACHE", str(tmp_path / "cache"))
    folder = ["--trainer.default_root_dir", "runs/cached", "--model.reference.mode=cached"]
    shown = [option for option in SHORT if "progress" not in option]
    orpo_lightning("fit", "--config", CONFIGS / "dpo.yaml", *folder, *shown)
    assert "reference log-probabilities of 290 rows" in capfd.readouterr().err
    orpo_lightning("fit", "--config", CONFIGS / "ipo.yaml", *folder, *shown)
    assert "reference log-probabilities" not in capfd.readouterr().err
    orpo_lightning("validate", "--config", CONFIGS / "dpo.yaml", *folder, *QUIET)


@pytest.mark.slow
def test_a_second_run_does_not_overwrite_the_first(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    before = metrics("runs/orpo")
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", "--model.objective", "DPO", *SHORT)
    assert metrics("runs/orpo") == before
    assert objective_of("runs/orpo")["class_path"] == "orpo_lightning.ORPO"
    assert objective_of("runs/orpo-2")["class_path"] == "orpo_lightning.DPO"


@pytest.mark.slow
def test_the_seed_of_everything_is_that_of_the_data(orpo_lightning):
    for folder, seed in (("one", 1), ("again", 1), ("two", 2)):
        orpo_lightning("fit", f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *SHORT)
    assert metrics("one") == metrics("again") != metrics("two")


@pytest.mark.slow
def test_it_runs_without_any_config(orpo_lightning):
    orpo_lightning("fit", "--model.objective.lambda_", "0.3", *SHORT)
    assert objective_of("runs/run")["init_args"]["lambda_"] == 0.3
    assert len(metrics("runs/run")) == 3


@pytest.mark.slow
def test_the_saved_config_starts_the_same_run_again(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    before = metrics("runs/orpo")
    orpo_lightning("fit", "--config", "runs/orpo/config.yaml", "--trainer.default_root_dir", "again")
    assert metrics("again") == before


def test_keys_are_what_users_and_scripts_rely_on(orpo_lightning):
    orpo_lightning(
        "fit",
        "--model.objective=IPO",
        "--model.policy.name_or_path=tiny",
        "--model.reference.name_or_path=tiny",
        "--model.layout=padded",
        "--model.optimizer.lr=1e-3",
        "--model.optimizer.weight_decay=0.1",
        "--model.schedule.name=inverse_sqrt",
        "--model.schedule.warmup=1",
        "--data.train=sample",
        "--data.val=sample",
        "--data.global_batch_size=4",
        "--data.max_length=256",
        "--data.max_prompt_length=128",
        "--trainer.default_root_dir=here",
        *SHORT,
    )
    assert len(metrics("here")) == 3


def test_the_tokenizer_is_the_policys(orpo_lightning, capsys):
    with pytest.raises(SystemExit):
        orpo_lightning("fit", "--model.policy.name_or_path", "tiny", "--print_config")
    assert "tokenizer" not in yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]


def test_validate_logs_every_shared_measure_and_leaves_the_metrics_of_a_fit_alone(orpo_lightning, capsys):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    before = metrics("runs/orpo")
    capsys.readouterr()
    orpo_lightning("validate", "--config", CONFIGS / "orpo.yaml", *QUIET)
    printed = capsys.readouterr().out
    assert "val/pref/accuracies" in printed
    assert "val/nll_response" in printed
    assert metrics("runs/orpo") == before


@pytest.mark.slow
def test_measuring_a_run_leaves_its_configuration_alone(orpo_lightning):
    orpo_lightning("fit", "--config", CONFIGS / "orpo.yaml", *SHORT)
    before = Path("runs/orpo/config.yaml").read_text()
    orpo_lightning("validate", "--config", "runs/orpo/config.yaml", "--model.objective.lambda_=0.9", *QUIET)
    assert Path("runs/orpo/config.yaml").read_text() == before
    orpo_lightning("fit", "--config", "runs/orpo/config.yaml", *SHORT)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--data.train", "missing.jsonl"],
            "data.train: no file or folder at 'missing.jsonl'; accepted: a file, a folder, a hub id (owner/name), or "
            "one of: sample, hh-rlhf, hh-rlhf/harmless-base, hh-rlhf/helpful-base, hh-rlhf/helpful-online, "
            "hh-rlhf/helpful-rejection-sampled, ultrafeedback, ultrafeedback-cleaned",
        ),
        (["--model.objective.lambda_=-1"], "ORPO: lambda_ = -1.0 is out of range; accepted: [0, inf)"),
        (
            ["--model.objective=DPO", "--model.reference.mode=adapter"],
            "model.reference.mode = 'adapter', but the policy has no adapter to switch off (model.policy.lora.r = 0); "
            "accepted: auto, copy, cached",
        ),
        (
            ["--model.policy.lora.r=-2"],
            "model.policy.lora.r = -2 is out of range; accepted: 1 or more, 0 = no adapter",
        ),
        (["--data.global_batch_size=0"], "data.global_batch_size = 0 is out of range; accepted: 1 or more"),
    ],
)
def test_errors_are_of_one_line(orpo_lightning, monkeypatch, arguments, sentence):
    monkeypatch.setattr("orpo_lightning.__main__.main", lambda: orpo_lightning("fit", *arguments, *SHORT))
    with pytest.raises(SystemExit) as error:
        console()
    assert str(error.value).splitlines()[0] == f"orpo-lightning: {sentence}"
    monkeypatch.setenv("ORPO_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="accepted:"):
        console()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [slow(["-m", "orpo_lightning"]), [str(Path(sys.executable).parent / "orpo-lightning")]]
)
def test_a_users_loss_in_a_file_of_their_own_folder_runs(tmp_path, command):
    (tmp_path / "my_losses.py").write_text(USERS_LOSS)
    options = ["--model.objective", "my_losses.SquaredMargin", "--model.objective.width", "0.7"]
    command = [sys.executable, *command] if command[0] == "-m" else command
    result = subprocess.run(
        [*command, "fit", *options, *SHORT], cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    assert objective_of(tmp_path / "runs" / "run") == {
        "class_path": "my_losses.SquaredMargin",
        "init_args": {"width": 0.7},
    }
    assert len(metrics(tmp_path / "runs" / "run")) == 3


FAILING_ALONE = """
import subprocess, sys
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from orpo_lightning import cli

def start():
    launcher.procs.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))

def fail():
    raise ValueError("no account")

launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
launcher._call_children_scripts = start
cli._watch_over_ranks(launcher)
launcher.launch(fail)
"""


@pytest.mark.slow
def test_the_ranks_that_a_process_has_started_end_with_it_where_it_fails_alone():
    # what they print into is open as long as one of them is there
    done = subprocess.run(
        [sys.executable, "-c", FAILING_ALONE], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: no account\n")


def test_help_lists_the_verbs(orpo_lightning, capsys):
    orpo_lightning("--help")
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("fit", "validate", "test", "objectives"))


def test_a_misspelt_verb_is_answered_with_the_nearest(orpo_lightning):
    with pytest.raises(SystemExit, match="no verb is named 'fitt'; did you mean 'fit'"):
        orpo_lightning("fitt")


def test_the_objectives_are_listed_with_formula_and_arguments(orpo_lightning, capsys):
    orpo_lightning("objectives")
    printed = capsys.readouterr().out
    assert "DPO(beta=0.1, label_smoothing=0.0, length_normalized=False)" in printed
    assert "-log sigmoid(beta (h_w - h_l))" in printed


def test_options_are_not_abbreviated(orpo_lightning, capsys):
    with pytest.raises(SystemExit):
        orpo_lightning("fit", "--trainer.max_step=1")
    assert "--trainer.max_step is not a setting" in capsys.readouterr().err


def test_a_missing_file_is_named_before_any_model_is_loaded(orpo_lightning, monkeypatch):
    monkeypatch.setattr(building, "load_together", lambda *args: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"data\.train: no file or folder at 'missing\.jsonl'; accepted: a file"):
        orpo_lightning("fit", "--data.train", "missing.jsonl", *SHORT)
