"""Imports point one way, third parties stay in their rooms, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "orpo_lightning"
# room: the rooms it may import from; the first match of a module's path names its room
MAY_IMPORT = {
    "verbs": set(),
    "secret_names": set(),
    "yaml_aliases": set(),
    "secret_texts": {"secret_names"},
    "secrets": {"secret_names", "secret_texts", "yaml_aliases"},
    "one_line": set(),
    "records": set(),
    "memory": set(),
    "device_memory": set(),
    "signals": {"secrets"},
    "run_folder": {"secrets"},
    "run_start": {"run_folder", "sharded_checkpoint", "whole_folder"},
    "cache_folder": set(),
    "ranks": set(),
    "versions": set(),
    "trainer_parts": set(),
    "whole_file": set(),
    "whole_folder": set(),
    "write_errors": set(),
    "manifest": {"versions"},
    "plain_data": set(),
    "sharded_checkpoint": {"manifest", "plain_data", "ranks", "write_errors"},
    "integrity": {"manifest", "ranks", "sharded_checkpoint"},
    "loggers": {"run_folder"},
    "user_loggers": {"run_folder", "secrets"},
    "checkpoint_io": {
        "integrity",
        "manifest",
        "plain_data",
        "ranks",
        "sharded_checkpoint",
        "whole_folder",
        "write_errors",
        "secrets",
    },
    "strategies": {
        *("checkpoint_io", "integrity", "memory", "models", "plain_data", "ranks", "sharded_checkpoint"),
        *("whole_folder", "write_errors", "secrets"),
    },
    "functional": {"records"},
    "packing": {"records"},
    "objectives": {"records", "functional", "secrets"},
    "metrics": {"records"},
    "models": {
        *("records", "memory", "packing", "run_folder", "cache_folder"),
        *("integrity", "manifest", "sharded_checkpoint", "ranks", "versions"),
    },
    "data": {"records", "packing", "cache_folder", "models.tokenizer", "whole_file", "one_line", "ranks"},
    "modules": {
        *("records", "packing", "memory", "device_memory", "ranks", "objectives", "metrics", "models"),
        *("trainer_parts", "plain_data"),
    },
    "health": {"modules"},
    "testing": {"records", "objectives", "metrics"},
    "summary": {"run_folder", "whole_file", "secrets"},
    "comparison": {"run_folder", "summary", "whole_file"},
    "report": {"run_folder", "summary", "comparison", "whole_file"},
    "sweep": {"run_folder", "signals", "summary", "whole_file", "secret_names", "secrets"},
    "callbacks": {
        *("run_folder", "signals", "loggers", "user_loggers", "records", "packing", "data", "models", "modules"),
        *("objectives", "summary", "comparison", "report", "whole_folder", "manifest", "ranks", "health", "versions"),
        *("trainer_parts", "secrets", "one_line"),
    },
    "command_line": {
        *("verbs", "run_folder", "user_loggers", "models", "objectives", "secrets", "one_line"),
        *("yaml_aliases",),
    },
    "commands": {
        *("verbs", "run_folder", "signals", "records", "data", "models", "objectives", "summary", "comparison"),
        *("report", "sweep", "command_line", "cli", "whole_file", "whole_folder", "modules", "checkpoint_io"),
        *("memory", "device_memory", "packing", "versions", "secrets"),
    },
    "cli": {
        *("verbs", "run_folder", "run_start", "loggers", "user_loggers", "checkpoint_io", "callbacks", "objectives"),
        *("data", "command_line", "strategies", "trainer_parts", "secrets", "ranks"),
    },
    "trial": {"__main__", "sweep"},
    "__main__": {"verbs", "signals", "command_line", "__version__", "secrets"},
    "__init__": {"data", "models", "modules", "objectives", "records"},
}
THIRD_PARTIES = {
    "transformers": ("models",),
    "tokenizers": ("models",),
    "huggingface_hub": ("models",),
    "peft": ("models.adapters", "models.export", "models.saved_modules"),
    "datasets": ("data",),
    "lightning": (
        *("data.datamodule", "modules", "loggers", "user_loggers", "checkpoint_io", "callbacks", "cli", "commands"),
        *("command_line", "strategies", "trainer_parts"),
    ),
    "torchmetrics": ("metrics",),
    "jsonargparse": ("cli", "command_line", "testing"),
    "omegaconf": ("command_line",),
    "shtab": ("commands.completion",),
    "matplotlib": ("report.paper", "report.picture"),
    "plotly": ("report.page",),
    "scipy": ("summary.intervals", "comparison.significance"),
    "optuna": ("sweep.distributions", "sweep.suggest"),
    "wandb": (),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # "from package import module" imports the module
            yield from (
                f"{node.module}.{a.name}" if node.module == "orpo_lightning" else node.module for a in node.names
            )


def within(module, room):
    return module == room or module.startswith(room + ".")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_one_way(file):
    room = name_of(file).split(".")[0]
    for module in imports(file):
        if within(module, "orpo_lightning"):
            target = module.removeprefix("orpo_lightning.")
            allowed = {room} | MAY_IMPORT[room]
            assert any(within(target, other) for other in allowed), f"{room} must not import {target}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_third_parties_stay_in_their_rooms(file):
    for module in imports(file):
        rooms = THIRD_PARTIES.get(module.split(".")[0])
        if rooms is not None:
            assert any(within(name_of(file), room) for room in rooms), f"{module} is not for {name_of(file)}"


def loaded_after(code):
    script = f"import sys; {code}; print(*sorted(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_package_loads_nothing():
    assert not {"torch", "lightning", "transformers", "datasets"} & loaded_after("import orpo_lightning")


@pytest.mark.slow
def test_the_module_without_an_adapter_does_not_need_peft():
    assert "peft" not in loaded_after("from orpo_lightning import LoraConfig, PreferenceModule")


def test_the_objectives_need_torch_only():
    loaded = loaded_after("from orpo_lightning import ORPO, Objective, PairLogps")
    assert "torch" in loaded
    assert not {"lightning", "transformers", "datasets", "wandb"} & loaded


def imported_by(*arguments):
    """Top-level modules in the order in which an interpreter imports them, its own start left out."""

    def imported(*arguments):
        command = [sys.executable, "-X", "importtime", *arguments]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
        return [line.rpartition("|")[2].strip().partition(".")[0] for line in log if "import time:" in line]

    return set(imported(*arguments)) - set(imported("-c", "pass"))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_imports_nothing_but_the_standard_library(arguments):
    others = imported_by("-m", "orpo_lightning", *arguments) - sys.stdlib_module_names
    assert others == {"orpo_lightning"}
