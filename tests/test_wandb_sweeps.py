"""Sweeps by the real client of Weights & Biases, its programs and the shipped files, against a server on this machine.

That is what these tests prove: the files and the runs keep to what this version of the client asks for and tells. They
do not prove that the real server does the same: it chooses the trials of a search, and those to end, in its own way.
"""

import csv
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from helpers import slow_but
from pages import page_named
from wandb_server import ENTITY, ReceivedRun, ReceivedSweep, WandbServer

ROOT = Path(__file__).parents[1]
FILES = {path.stem: path for path in sorted((ROOT / "sweeps").glob("*.yaml"))}
SMALL = [name for name in FILES if name.endswith("_small")]
QUIET = ["--trainer.enable_progress_bar=false", "--summary.enabled=false"]
ACCURACY, NLL, STEP, LAMBDA = (
    "val/pref/accuracies",
    "val/nll_response",
    "trainer/global_step",
    "model.objective.lambda_",
)
OWN_LOSS = """
import torch
from orpo_lightning import ORPO

class Greedy(ORPO):
    def __call__(self, policy, reference=None):
        if torch.is_grad_enabled():
            torch.empty(10**14)
        return super().__call__(policy, reference)
"""


def file_of(name):
    return yaml.safe_load(FILES[name].read_text())


def with_options(config, *options, drop=()):
    """A sweep whose command has more options at its end, which count, and lacks those that a trial is to be given."""
    kept = [word for word in config["command"] if word.partition("=")[0] not in drop]
    return {**config, "command": [*kept, *options]}


def command_of(config, arguments):
    """What an agent runs for a trial: the words that are macros are replaced, as a whole."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in arguments.items()}})
    macros |= {"env": ["/usr/bin/env"], "program": [config["program"]]}
    words = config["command"]
    is_macro = [word.startswith("${") and word.endswith("}") for word in words]
    return [
        each for word, macro in zip(words, is_macro, strict=True) for each in (macros[word[2:-1]] if macro else [word])
    ]


class Desk:
    """A folder in which the programs are started.

    Args:
        folder: where.
        server: that the client talks to.
    """

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        self.environment = {
            **own,
            **server.environment,
            **{f"WANDB_{name}_DIR": str(folder / "of_wandb") for name in ("CONFIG", "CACHE", "DATA")},
            "WANDB_ERROR_REPORTING": "false",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]]),
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *command, **environment):
        """Run a command to its end; returns all it printed."""
        ended = subprocess.run(
            [*map(str, command)],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def sweep(self, config, agents=1, **environment):
        """Make a sweep of a file, and start agents by the command that the client prints."""
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        printed = self.run("wandb", "sweep", "sweep.yaml")
        agent = printed.partition("Run sweep agent with: ")[2].split()
        with ThreadPoolExecutor(agents) as pool:
            list(pool.map(lambda _: self.run(*agent, **environment), range(agents)))

    def trial(self, **arguments):
        """The run that was given these."""
        given = {name.replace("__", "."): value for name, value in arguments.items()}
        (run,) = (run for run in self.server.runs.values() if given.items() <= run.arguments.items())
        return run

    def folder_of(self, run):
        """Its run folder."""
        return self.folder / "runs" / self.server.sweeps[run.sweep].config["name"] / run.id

    def metrics_of(self, run):
        """The rows of its metrics.csv."""
        with (self.folder_of(run) / "metrics.csv").open() as file:
            return list(csv.DictReader(file))

    def settings_of(self, run):
        """Its config.yaml."""
        return yaml.safe_load((self.folder_of(run) / "config.yaml").read_text())


def without_empty(values):
    """The same without mappings that hold nothing, which are not sent."""
    if not isinstance(values, dict):
        return values
    return {name: without_empty(value) for name, value in values.items() if value != {}}


# one sweep, which most of the tests below look at

FEW, MANY = {LAMBDA: 0.1, "trainer.max_epochs": 1}, {LAMBDA: 2.0, "trainer.max_epochs": 1}
DIVERGING = {LAMBDA: 0.5, "model.optimizer.lr": 1e30, "trainer.gradient_clip_val": "null", "trainer.max_epochs": 1}
IDLE = {LAMBDA: 0.01, "model.optimizer.lr": 0.0, "trainer.max_epochs": 100}


def of_one_sweep(test):
    """Marks what looks at a sweep that takes two minutes."""
    return pytest.mark.slow(pytest.mark.xdist_group("the sweep of wandb")(test))


"""Tests of the fixture below, which takes a minute: one process makes it for all."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The search for lambda on the tiny model, with two agents: two good trials, one that diverges, one that idles.

    The global batch is split into two micro-batches; an epoch has 32 steps and, of the file, 8 validations.
    """
    changed = ["--trainer.accumulate_grad_batches=2", *QUIET]
    config = with_options(file_of("orpo_lambda_small"), *changed, drop=["--trainer.max_epochs"])
    with WandbServer([FEW, MANY, DIVERGING, IDLE]) as server:
        desk = Desk(tmp_path_factory.mktemp("sweep"), server)
        desk.sweep(config, agents=2)
        yield desk


@pytest.fixture
def good(swept):
    return [swept.trial(**{LAMBDA: each[LAMBDA]}) for each in (FEW, MANY)]


@of_one_sweep
def test_the_sweep_is_that_of_the_file_and_all_of_its_trials_ran(swept):
    (sweep,) = swept.server.sweeps.values()
    assert sweep.config == yaml.safe_load((swept.folder / "sweep.yaml").read_text())
    assert sweep.project == "orpo-lightning"
    assert not sweep.waiting
    assert [run.arguments for run in swept.server.runs.values()] == [FEW, MANY, DIVERGING, IDLE]
    assert all(run.sweep == sweep.id and run.exit_code is not None for run in swept.server.runs.values())


@of_one_sweep
def test_each_trial_has_what_the_sweep_gave_it_and_a_small_folder_of_its_own(swept):
    for run in swept.server.runs.values():
        assert (
            swept.settings_of(run)["model"]["init_args"]["objective"]["init_args"]["lambda_"] == run.arguments[LAMBDA]
        )
        assert run.config[LAMBDA] == run.arguments[LAMBDA]
        assert not (swept.folder_of(run) / "model").exists()
        assert not list(swept.folder_of(run).glob("checkpoints/best*"))
    assert len({swept.folder_of(run) for run in swept.server.runs.values()}) == 4


@of_one_sweep
def test_the_history_has_every_validation_over_optimizer_steps(swept, good):
    for run in good:
        assert run.axes["*"] == STEP
        rows = swept.metrics_of(run)
        for name in (ACCURACY, NLL):
            told = {row[STEP]: row[name] for row in run.history if name in row}
            assert told == {int(row["step"]): float(row[name]) for row in rows if row[name]}
            assert list(told) == list(range(0, 33, 4))
        assert {row[STEP] for row in run.history} == set(range(33))


@of_one_sweep
def test_the_run_has_the_whole_nested_configuration_and_the_data_report(swept, good):
    for run in good:
        saved = without_empty(swept.settings_of(run))
        assert {name: run.config[name] for name in saved} == saved
        assert run.config["data_report"]["train"]["read"] == 250
        assert run.config["data_report"]["validation"]["kept"] == 40


@of_one_sweep
def test_the_summary_has_the_last_measures_and_what_plots_of_many_runs_need(swept, good):
    for run in good:
        last = swept.metrics_of(run)[-1]
        assert {name: run.summary[name] for name in (ACCURACY, NLL)} == {
            name: float(last[name]) for name in (ACCURACY, NLL)
        }
        record = json.loads((swept.folder_of(run) / "run.json").read_text())
        fields = {name: run.summary[name] for name in ("objective", "strength", "model", "parameters", "status")}
        assert fields == {
            **{"objective": "ORPO", "strength": run.arguments[LAMBDA], "model": "tiny", "status": "complete"},
            "parameters": record["parameters"],
        }
        assert run.state == "finished"


@of_one_sweep
def test_a_trial_that_diverges_has_failed_for_a_reason(swept):
    run = swept.trial(**{LAMBDA: DIVERGING[LAMBDA]})
    assert run.state == run.summary["status"] == "failed"
    assert "of optimizer step 1 is" in run.summary["failure"]


@of_one_sweep
def test_a_trial_that_is_behind_is_ended_early_and_keeps_what_it_has(swept):
    run = swept.trial(**{LAMBDA: IDLE[LAMBDA]})
    assert run.is_stopped
    assert run.summary["status"] == "stopped"
    assert run.summary["failure"] == ""
    assert run.state == "finished"  # a search takes its value; of a trial that failed it would take the worst there is
    assert int(swept.metrics_of(run)[-1]["step"]) < IDLE["trainer.max_epochs"] * 32
    assert (swept.folder_of(run) / "checkpoints" / "last.ckpt").exists()


@of_one_sweep
def test_a_trial_that_is_started_again_goes_on_as_the_same_run(swept):
    run = swept.trial(**{LAMBDA: FEW[LAMBDA]})
    before, (sweep,) = list(run.history), swept.server.sweeps.values()
    longer = command_of(sweep.config, {**run.arguments, "trainer.max_epochs": 2})
    swept.run(*longer, WANDB_RUN_ID=run.id, WANDB_SWEEP_ID=sweep.id, WANDB_ENTITY=ENTITY, WANDB_PROJECT=run.project)
    assert len(swept.server.runs) == 4
    assert run.history[: len(before)] == before
    assert [row[STEP] for row in run.history[len(before) :] if ACCURACY in row] == list(range(36, 65, 4))
    assert {row[STEP] for row in run.history} == set(range(65))
    assert run.summary["status"] == "complete"
    assert run.state == "finished"


# other ways


@pytest.mark.slow
def test_a_run_without_network_is_sent_later_by_the_commands_of_the_page(tmp_path):
    page = page_named("sweeps")
    (fit,) = (command for command in page.commands if "offline" in command)
    (sync,) = (block for block in page.blocks("sh") if "sync" in block)
    with WandbServer() as server:
        desk = Desk(tmp_path, server)
        desk.run(*fit.split(), "--trainer.max_steps=4", *QUIET)
        assert not server.calls
        desk.run("bash", "-ec", sync)
        (run,) = server.runs.values()
    assert run.project == "orpo-lightning"
    assert run.axes["*"] == STEP
    assert [row[STEP] for row in run.history if ACCURACY in row] == [0, 4]
    assert run.summary["strength"] == 0.1
    assert run.config["data_report"]["train"]["read"] == 250
    assert run.state == "finished"


@pytest.mark.slow
def test_trials_that_fail_do_not_end_a_sweep_whose_agent_is_told_to_go_on(tmp_path):
    (tmp_path / "my_losses.py").write_text(OWN_LOSS)
    config = with_options(file_of("orpo_lambda_small"), *QUIET, drop=["--trainer.max_epochs"])
    greedy = {**FEW, "model.objective": "my_losses.Greedy"}
    with WandbServer([DIVERGING, greedy, DIVERGING, MANY]) as server:
        desk = Desk(tmp_path, server)
        desk.sweep(config, WANDB_AGENT_DISABLE_FLAPPING="true")
    assert [run.state for run in server.runs.values()] == ["failed", "failed", "failed", "finished"]
    assert [run.summary["status"] for run in server.runs.values()] == ["failed", "failed", "failed", "complete"]
    assert (
        "in the forward pass of step 0, which asked for 400000000000000 bytes"
        in desk.trial(**greedy).summary["failure"]
    )


@pytest.mark.slow
def test_a_sweep_over_objectives_compares_them_at_the_same_work(tmp_path):
    config = with_options(file_of("objectives_small"), "--trainer.max_steps=8", *QUIET)
    config["parameters"]["seed_everything"] = {"values": [0]}
    with WandbServer() as server:
        Desk(tmp_path, server).sweep(config, agents=2)
    runs = list(server.runs.values())
    names = {"orpo": "ORPO", "dpo": "DPO", "ipo": "IPO", "simpo": "SimPO", "sft": "SFT"}
    assert {run.config["config"]: run.summary["objective"] for run in runs} == names
    assert {run.summary["status"] for run in runs} == {"complete"}
    assert {run.summary["work/total_pairs"] for run in runs} == {64}
    start = [next(row for row in run.history if ACCURACY in row) for run in runs]
    assert len({(row[ACCURACY], row[NLL]) for row in start}) == 1  # the same model, measured alike


# the shipped files


def test_the_sweeps_are_those_that_are_promised_each_with_a_twin_for_a_laptop():
    names = [
        "orpo_lambda",
        "orpo_lambda_grid",
        "model_size",
        "lambda_by_model_size",
        "objectives",
        "beta_dpo",
        "tau_ipo",
    ]
    assert set(FILES) == {*names, *(f"{name}_small" for name in names)}
    for name in names:
        large, small = file_of(name), file_of(f"{name}_small")
        assert (large["method"], large["metric"]) == (small["method"], small["metric"])
        assert ("early_terminate" in large) == ("early_terminate" in small)


def extremes(parameter):
    """The smallest and the largest value of a number; all values of anything else."""
    values = parameter.get("values") or [parameter[key] for key in ("value", "min", "max") if key in parameter]
    is_number = all(isinstance(value, int | float) for value in values)
    return list(dict.fromkeys([min(values), max(values)])) if is_number else values


def trials_at_the_extremes(config):
    """Trials in which each extreme of each parameter is once."""
    found = {name: extremes(each) for name, each in config["parameters"].items()}
    count = max(map(len, found.values()))
    return [{name: values[min(i, len(values) - 1)] for name, values in found.items()} for i in range(count)]


def value_at(settings, key):
    """A setting by its dotted key."""
    for name in key.split("."):
        settings = settings[name] if name in settings else settings["init_args"][name]
    return settings


@pytest.fixture
def printed(orpo_lightning, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")

    def run(config, arguments):
        program, *words = command_of(config, arguments)[1:]
        assert program == "orpo-lightning"
        with pytest.raises(SystemExit) as end:
            orpo_lightning(*words, "--print_config")
        out, err = capsys.readouterr()
        assert not end.value.code, err
        return yaml.safe_load(out)

    return run


@pytest.mark.parametrize("name", slow_but(["orpo_lambda_small"], FILES))
def test_each_command_is_understood_at_each_extreme_of_its_parameters(printed, name):
    config = file_of(name)
    for arguments in trials_at_the_extremes(config):
        found = printed(config, arguments)
        for key, value in arguments.items():
            if key == "config":
                layer = yaml.safe_load((ROOT / "configs" / f"{value}.yaml").read_text())["model"]
                what = "objective" if "objective" in layer else "policy"
                assert layer[what].get("class_path", "") in found["model"]["init_args"][what].get("class_path", "")
            else:
                assert value_at(found, key) == value, key
        assert found["trainer"]["default_root_dir"] == f"runs/{config['name']}/abc123"
        assert found["trainer"]["logger"]["class_path"].endswith("WandbLogger")
        assert (found["export"]["enabled"], found["checkpoint"]["monitor"]) == (False, None)
        assert found["trainer"]["callbacks"] is None


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_named_as_it_is_and_says_how_it_is_run(name):
    text, config = FILES[name].read_text(), file_of(name)
    assert config["name"] == name
    assert f"#   wandb sweep sweeps/{name}.yaml\n#   wandb agent ENTITY/{config['project']}/ID" in text
    assert f"orpo-lightning sweep sweeps/{name}.yaml" in text
    assert "WANDB_AGENT_DISABLE_FLAPPING=true" in text.partition("program:")[0]


def test_the_page_names_each_file_with_its_number_of_trials():
    told = {cells[0].strip("`"): int(cells[2]) for cells in page_named("sweeps").rows("file | asks | trials")}
    assert told == {path.name: number_of_trials(file_of(name)) for name, path in FILES.items()}


def number_of_trials(config):
    is_grid = config["method"] == "grid"
    sizes = [len(each.get("values", [None])) for each in config["parameters"].values()]
    return math.prod(sizes) if is_grid else config["run_cap"]


@pytest.mark.parametrize("name", [name for name in FILES if "early_terminate" in file_of(name)])
def test_a_trial_has_more_validations_than_hyperband_waits_for(printed, name):
    config = file_of(name)
    trainer = printed(config, trials_at_the_extremes(config)[0])["trainer"]
    validations = 1 + trainer["max_epochs"] / trainer["val_check_interval"]  # with the one before the first step
    assert validations > config["early_terminate"]["min_iter"] * config["early_terminate"]["eta"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_client_makes_a_sweep_of_each_file_as_it_is(tmp_path, name):
    with WandbServer() as server:
        Desk(tmp_path, server).run("wandb", "sweep", FILES[name])
    (sweep,) = server.sweeps.values()
    assert sweep.config == file_of(name)


@pytest.mark.parametrize("name", slow_but(["beta_dpo_small"], SMALL))
def test_a_trial_of_each_small_sweep_trains(orpo_lightning, monkeypatch, name):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    config = file_of(name)
    last = {key: extremes(each)[-1] for key, each in config["parameters"].items()}
    _, _, *words = command_of(config, last)
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.limit_val_batches=1"]
    orpo_lightning(*words, "--trainer.logger=false", *short, *QUIET)
    record = json.loads(Path(f"runs/{name}/abc123/run.json").read_text())
    assert (record["status"], record["steps"]) == ("complete", 2)


@pytest.mark.parametrize(
    ("values", "is_behind"),
    [
        ([0.1], False),  # before the first band
        ([0.1, 0.1], True),
        ([0.1, 0.6], False),  # of three, as good as the second
        ([0.9, 0.1], False),  # its best value so far counts
        ([0.1, 0.1, 0.9, 0.9], True),  # at a band that it has left behind, where the others have ended
    ],
)
def test_the_server_of_these_tests_ends_the_worse_half_at_a_band(values, is_behind):
    config = {
        "metric": {"name": "acc", "goal": "maximize"},
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
    }
    new, *others = (
        ReceivedRun("", history=[{"acc": each} for each in curve]) for curve in (values, [0.1, 0.6], [0.1, 0.7])
    )
    assert ReceivedSweep("", "", config, waiting=[]).is_behind(new, others) == is_behind
