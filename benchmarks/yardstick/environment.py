"""TRL in an environment of its own, made where it is missing, with the versions of constraints.txt."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

from orpo_lightning.sweep.share import cores

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-trl"
CONSTRAINTS = ROOT / "constraints.txt"
WANTED = ("torch", "trl")
NAMED = ("torch", "transformers", "trl", "accelerate", "datasets")
"""The versions that stand with the results."""


def python_with_trl(folder: Path = FOLDER) -> Path:
    """The interpreter of an environment with TRL, which is made or brought up to date first if need be."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.is_file():
        print(f"making an environment for TRL in {folder}: a few minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if wrong_versions(installed(python)):
        # under the constraints: torch alone would bring several GB of CUDA packages
        command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), *WANTED]
        subprocess.run(command, check=True)
        wrong = wrong_versions(installed(python))
        if wrong:
            raise RuntimeError(f"{folder} has other versions than {CONSTRAINTS.name}: {', '.join(wrong)}; remove it")
    return python


def installed(python: Path) -> dict[str, str]:
    """The packages of an environment and their versions."""
    command = [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    # +cpu and the like say how a version was built
    return {_key(each["name"]): each["version"].partition("+")[0] for each in json.loads(found)}


def wrong_versions(found: dict[str, str]) -> list[str]:
    """What is missing, or not as constraints.txt has it."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = {_key(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    missing = [name for name in WANTED if name not in found]
    return missing + [f"{name} {found[name]}" for name in found.keys() & pinned if found[name] != pinned[name]]


def _key(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def processor() -> str:
    """The name of the processor, or of the CUDA device."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def conditions() -> str:
    """What stands beside every figure: machine, cores, version of torch, commit and date."""
    import torch

    return f"{processor()}, {cores()} cores, torch {torch.__version__}, commit {commit()}, {date.today().isoformat()}"


def commit() -> str:
    """The commit of this repository; says so where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=, with changes", "--exclude=*"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
