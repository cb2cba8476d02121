"""The wheel holds what a user needs and nothing else, and runs where the repository is not."""

import csv
import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
# without the search path by which the tests find the repository
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, cwd, env=ENVIRONMENT):
    finished = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def build_wheel(source, folder):
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    """A new environment with the wheel in it, which sees the other packages of this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    places = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # packages of a folder named here are found, but not what its own .pth files point to, such as the repository
    Path(places, "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def test_the_wheel_holds_the_package_the_configurations_and_the_sweeps_and_nothing_else(wheel):
    package = {path.relative_to(ROOT) for path in (ROOT / "orpo_lightning").rglob("*") if path.is_file()}
    expected = {str(path) for path in package if "__pycache__" not in path.parts}
    for folder in ("configs", "sweeps"):
        expected |= {f"orpo_lightning/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.yaml")}
    found = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert found == expected
    assert {
        *("orpo_lightning/py.typed", "orpo_lightning/configs/orpo.yaml", "orpo_lightning/configs/model/lora.yaml"),
        *("orpo_lightning/data/samples/train.jsonl", "orpo_lightning/data/samples/validation.jsonl"),
        "orpo_lightning/sweeps/orpo_lambda.yaml",
    } <= found


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path / "sdist", cwd=ROOT)
    (source,) = (tmp_path / "sdist").iterdir()
    (tmp_path / "wheel").mkdir()
    assert contents(build_wheel(source, tmp_path / "wheel")) == contents(wheel)


def test_an_editable_installation_copies_no_configuration(tmp_path):
    build = f"from hatchling.build import build_editable; print(build_editable({str(tmp_path)!r}))"
    name = run(sys.executable, "-c", build, cwd=ROOT).split()[-1]
    found = {name: content for name, content in contents(tmp_path / name).items() if ".dist-info/" not in name}
    (pointer,) = found.values()
    assert pointer.decode().strip() == str(ROOT)


def test_every_extra_is_there(wheel):
    metadata = next(text for name, text in contents(wheel).items() if name.endswith("/METADATA")).decode()
    extras = {line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Provides-Extra")}
    assert extras >= {"smollm2", "wandb", "lora", "liger", "dev"}


@pytest.mark.slow
def test_the_installed_command_trains_outside_the_repository(environment, tmp_path):
    where = run(
        environment / "bin" / "python", "-c", "import orpo_lightning; print(orpo_lightning.__file__)", cwd=tmp_path
    )
    package = Path(where.strip()).parent
    assert package.is_relative_to(environment)
    options = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    config = package / "configs" / "orpo.yaml"
    run(environment / "bin" / "orpo-lightning", "fit", "--config", config, *options, cwd=tmp_path)
    with (tmp_path / "runs" / "orpo" / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[-1] < losses[0]
    assert (tmp_path / "runs" / "orpo" / "model" / "config.json").is_file()
