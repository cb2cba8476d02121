"""docs/configuration.md is right about the settings, the shipped configurations and the run folder."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from pages import ROOT, page_named
from settings_table import TABLE, table

PAGE = page_named("configuration")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def test_the_table_of_settings_is_what_the_signatures_and_docstrings_say():
    assert TABLE.search(PAGE.text)[0].splitlines()[1:-1] == table().splitlines(), "run: python tests/settings_table.py"


def test_the_other_settings_have_the_defaults_that_the_page_says(orpo_lightning, capsys):
    with pytest.raises(SystemExit):
        orpo_lightning("fit", "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out.replace("==SUPPRESS==", ""))
    for key, default, _ in PAGE.rows("key | default | meaning"):
        value = printed
        names = key.strip("`").split(".")
        if names[0] in ("model", "data"):
            continue
        for name in names:
            value = value[name]
        assert value == yaml.safe_load(default), key


def test_the_short_names_on_the_page_are_those_of_the_shipped_configurations():
    layers = PAGE.text.partition("comes with the package:")[2].partition("\n\n")[2].partition("\n\n")[0]
    shipped = [path.relative_to(ROOT / "configs").with_suffix("") for path in (ROOT / "configs").rglob("*.yaml")]
    assert sorted(re.findall(r"`([\w./-]+)`", layers)) == sorted(map(str, shipped))


@pytest.mark.pictures
def test_a_run_folder_holds_what_the_page_says_and_nothing_else(orpo_lightning):
    orpo_lightning("fit", "--config", ROOT / "configs" / "orpo.yaml", "--trainer.max_epochs=1", *QUIET)
    names = {name for cells in PAGE.rows("file | holds") for name in re.findall(r"`([\w.]+)/?`", cells[0])}
    assert {path.name for path in Path("runs/orpo").iterdir() if path.name[0] != "."} == names
    checkpoints = next(cells[1] for cells in PAGE.rows("file | holds") if cells[0] == "`checkpoints/`")
    patterns = [name.replace("…", "*") for name in re.findall(r"`([^`]+\.ckpt)`", checkpoints)]
    files = list(Path("runs/orpo/checkpoints").iterdir())
    assert files
    assert all(any(file.match(pattern) for pattern in patterns) for file in files)


@pytest.fixture
def printed(orpo_lightning, capsys):
    """What a fit of some of the page's files would run."""

    def run(*names):
        for name in names:
            Path(name).write_text(PAGE.files[name])
        layers = [option for name in names for option in ("--config", name)]
        with pytest.raises(SystemExit):
            orpo_lightning("fit", *layers, "--print_config")
        return yaml.safe_load(capsys.readouterr().out.replace("==SUPPRESS==", ""))

    return run


def test_a_file_with_what_differs_is_a_whole_configuration(printed):
    found = printed("mine.yaml")
    assert found["model"]["init_args"]["objective"]["class_path"] == "orpo_lightning.DPO"
    assert found["model"]["init_args"]["optimizer"]["lr"] == 1e-4
    assert found["trainer"]["default_root_dir"] == "runs/mine"


def test_references_follow_what_is_set_later(printed, monkeypatch):
    monkeypatch.setenv("LAMBDA", "0.7")
    found = printed("mine.yaml", "named.yaml")
    assert found["model"]["init_args"]["objective"]["init_args"]["lambda_"] == 0.7
    assert found["trainer"]["default_root_dir"] == "runs/orpo-0.7"


def test_a_layer_adds_a_callback_to_those_before_it(printed, monkeypatch):
    rates = "trainer:\n  callbacks:\n    - lightning.pytorch.callbacks.LearningRateMonitor\n"
    monkeypatch.setattr(type(PAGE), "files", PAGE.files | {"rates.yaml": rates})
    found = printed("mine.yaml", "rates.yaml", "early.yaml")["trainer"]["callbacks"]
    assert [each["class_path"].rpartition(".")[2] for each in found] == ["LearningRateMonitor", "EarlyStopping"]


def test_the_settings_that_a_resumed_run_refuses_are_on_the_page():
    from orpo_lightning.modules.settings import SETTINGS

    refused = re.findall(r"`([\w.]+)`", PAGE.text.partition("Refused are ")[2].partition(" Everything else")[0])
    named = [name for each in SETTINGS if each.refused for name in re.split(r", as .*| or ", each.name) if name]
    assert sorted(refused) == sorted(named)


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sh"])
def test_the_scripts_for_several_machines_are_scripts(name):
    subprocess.run(["bash", "-n", ROOT / "examples" / name], check=True)
