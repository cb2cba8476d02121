"""Loggers that a user asks for: the real clients, offline, and what they wrote read back."""

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from wandb_file import OfflineRun

from orpo_lightning.__main__ import console
from orpo_lightning.run_folder import WANDB_ID_FILE
from orpo_lightning.user_loggers import WANDB_HELP, LoggerMaker, keep_wandb_id

CONFIG = Path(__file__).parents[1] / "configs" / "orpo.yaml"
RUN = Path("runs/orpo")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
# two micro-batches a step: the x axis has steps all the same; 8 steps in all
SHORT = [*QUIET, "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=1"]
WANDB, TENSORBOARD, CSV = (["--trainer.logger", f"{name}Logger"] for name in ("Wandb", "TensorBoard", "CSV"))


@pytest.fixture
def fit(orpo_lightning, monkeypatch):
    """A fit in a process of its own, as far as Weights & Biases can tell."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def run(*options, verb="fit"):
        try:
            orpo_lightning(verb, "--config", CONFIG, *SHORT, *options)
        finally:
            wandb.finish()
            wandb.teardown()  # its service stays in the folder where it was started

    return run


def saved_config(run=RUN):
    return yaml.safe_load((run / "config.yaml").read_text())


def rows_of(run=RUN):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def offline_runs(folder):
    return [OfflineRun(path) for path in sorted(folder.glob("offline-run-*"))]


def names(values, prefix=""):
    """The names of all values, as paths; an empty list or mapping holds none."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from names(value, f"{prefix}{key}/")
        elif value != []:
            yield f"{prefix}{key}"


def hparams_of(events):
    info = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in info.session_start_info.hparams.items()}


def events_of(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_weights_and_biases_gets_the_whole_configuration_the_data_report_and_steps(fit):
    fit(*WANDB, "--trainer.logger.project=preferences")
    (run,) = offline_runs(RUN / "wandb")
    assert run.project == "preferences"
    assert {name: run.config[name] for name in saved_config()} == saved_config()
    report = run.config["data_report"]
    assert report["train"]["read"] == 250
    assert report["validation"]["kept"] == 40
    # every measure has the optimizer step as its x axis
    assert run.axes["*"] == "trainer/global_step"
    by_step = {}
    for row in run.history:
        by_step.setdefault(row["trainer/global_step"], {}).update(row)
    kept = rows_of()
    assert list(by_step) == [int(row["step"]) for row in kept] == list(range(len(kept)))
    for row in kept[:-1]:  # in the last row is the validation of the end
        assert by_step[int(row["step"])]["train/loss"] == float(row["train/loss"])
    assert by_step[len(kept) - 1]["val/pref/accuracies"] == float(kept[-1]["val/pref/accuracies"])


@pytest.mark.slow
def test_tensorboard_gets_the_configuration_flat_and_steps(fit):
    fit(*TENSORBOARD)
    events = events_of(RUN / "tensorboard" / "version_0")
    found = hparams_of(events)
    assert set(found) >= set(names(saved_config()))
    assert found["model/init_args/objective/init_args/lambda_"] == pytest.approx(0.1)
    assert found["data_report/train/read"] == 250
    nested = yaml.safe_load((RUN / "tensorboard" / "version_0" / "hparams.yaml").read_text())
    assert {name: nested[name] for name in saved_config()} == saved_config()
    kept = [row for row in rows_of() if row["train/loss"]]
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == [int(row["step"]) for row in kept]
    assert [event.value for event in logged] == pytest.approx([float(row["train/loss"]) for row in kept])


@pytest.mark.slow
def test_a_list_of_loggers_is_served_and_each_has_a_folder(fit, tmp_path):
    layer = tmp_path / "loggers.yaml"
    layer.write_text("trainer: {logger: [{class_path: CSVLogger}, {class_path: TensorBoardLogger}]}")
    fit("--config", layer)
    hparams = yaml.safe_load((RUN / "csv" / "version_0" / "hparams.yaml").read_text())
    assert {name: hparams[name] for name in saved_config()} == saved_config()
    assert hparams["data_report"]["train"]["read"] == 250
    assert hparams_of(events_of(RUN / "tensorboard" / "version_0"))["data_report/train/read"] == 250
    with (RUN / "csv" / "version_0" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["step"] for row in logged] == [row["step"] for row in rows_of() if row["train/loss"]]


@pytest.mark.slow
def test_a_folder_of_the_users_own_wins(fit):
    fit(*CSV, "--trainer.logger.save_dir=mine", "--trainer.logger.name=named")
    assert (Path("mine") / "named" / "version_0" / "metrics.csv").is_file()
    assert not (RUN / "csv").exists()
    fit(*WANDB, "--trainer.logger.save_dir=mine")
    assert len(offline_runs(Path("mine/wandb"))) == 1


@pytest.mark.slow
def test_a_saved_configuration_starts_another_run_whose_loggers_write_into_its_own_folder(fit, orpo_lightning):
    fit(*CSV)
    orpo_lightning("fit", "--config", RUN / "config.yaml")
    assert saved_config()["trainer"]["logger"]["init_args"]["save_dir"] is None
    for run in (RUN, Path("runs/orpo-2")):
        assert [path.name for path in (run / "csv").iterdir()] == ["version_0"]


@pytest.mark.slow
def test_a_second_run_is_another_and_a_resumed_run_the_same_for_weights_and_biases(fit):
    fit(*WANDB)
    fit(*WANDB)
    (first,), (second,) = offline_runs(RUN / "wandb"), offline_runs(Path("runs/orpo-2/wandb"))
    assert first.id != second.id
    checkpoint = next((RUN / "checkpoints").glob("*.ckpt"))
    fit(*WANDB, "--ckpt_path", checkpoint, "--trainer.max_epochs=2")
    before, after = offline_runs(RUN / "wandb")  # offline each process has a folder, of one run
    assert before.id == after.id == first.id
    assert {row["trainer/global_step"] for row in before.history} == set(range(33))
    assert {row["trainer/global_step"] for row in after.history} == set(range(32, 65))


@pytest.mark.slow
def test_files_of_a_resumed_run_go_on_in_a_new_version(fit, tmp_path):
    layer = tmp_path / "loggers.yaml"
    layer.write_text("trainer: {logger: [{class_path: CSVLogger}, {class_path: TensorBoardLogger}]}")
    fit("--config", layer)
    checkpoint = next((RUN / "checkpoints").glob("*.ckpt"))
    fit("--config", layer, "--ckpt_path", checkpoint, "--trainer.max_epochs=2")
    for version, steps in (("version_0", range(32)), ("version_1", range(32, 64))):
        events = events_of(RUN / "tensorboard" / version)
        assert [event.step for event in events.Scalars("train/loss")] == list(steps)
        with (RUN / "csv" / version / "metrics.csv").open() as file:
            assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]] == list(steps)


@pytest.mark.slow
def test_trials_of_a_sweep_keep_the_ids_that_its_agent_gives_them(fit, monkeypatch):
    for trial in ("first", "second"):
        monkeypatch.setenv("WANDB_RUN_ID", trial)
        fit(*WANDB)
    assert [run.id for run in offline_runs(RUN / "wandb")] == ["first"]
    assert [run.id for run in offline_runs(Path("runs/orpo-2/wandb"))] == ["second"]


@pytest.mark.slow
def test_measuring_a_run_does_not_go_on_with_its_record(fit):
    fit(*WANDB)
    kept = (RUN / WANDB_ID_FILE).read_text()
    fit(*WANDB, verb="validate")
    assert (RUN / WANDB_ID_FILE).read_text() == kept
    fitted, measured = offline_runs(RUN / "wandb")
    assert measured.id != fitted.id
    assert measured.config["data_report"]["validation"]["kept"] == 40
    assert any("val/loss" in row for row in measured.history)


@pytest.fixture
def resumed(tmp_path):
    """Makes the loggers of a run that goes on, and is known as abc."""
    (tmp_path / WANDB_ID_FILE).write_text("abc\n")
    return LoggerMaker(tmp_path, goes_on=True)


def test_a_resumed_run_asks_weights_and_biases_to_go_on(resumed):
    logger = resumed(WandbLogger, version=None, id=None, resume=None)
    assert logger.version == "abc"
    assert logger._wandb_init["resume"] == "allow"  # what reaches wandb.init


@pytest.mark.parametrize("name", ["version", "id"])
def test_an_id_of_the_users_own_wins(resumed, name):
    assert resumed(WandbLogger, **{name: "mine"}).version == "mine"


def test_the_folder_of_the_environment_is_that_of_weights_and_biases(resumed, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "all"))
    assert resumed(WandbLogger, save_dir=None).save_dir == str(tmp_path / "all")
    assert resumed(WandbLogger, save_dir="mine").save_dir == "mine"
    assert resumed(WandbLogger, save_dir=None, dir="alias").save_dir == "alias"


def test_without_the_package_of_weights_and_biases_the_command_says_how_to_get_it(orpo_lightning, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else present(name, *rest)
    )
    monkeypatch.setattr("orpo_lightning.__main__.main", lambda: orpo_lightning("fit", "--config", CONFIG, *WANDB))
    with pytest.raises(SystemExit) as error:
        console()
    assert str(error.value).splitlines()[0] == f"orpo-lightning: {WANDB_HELP}"
    assert "pip install 'orpo-lightning[wandb]'" in WANDB_HELP
    assert not RUN.exists()


def test_a_logger_without_an_id_leaves_no_trace(tmp_path):
    keep_wandb_id([CSVLogger(tmp_path)], tmp_path / "run")
    assert not (tmp_path / "run").exists()
