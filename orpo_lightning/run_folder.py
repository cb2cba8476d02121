"""What is where in the folder of a run, and what a run left there for the card of its model."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orpo_lightning.secrets import hide_yaml

METRICS_FILE = "metrics.csv"
DATA_REPORT_FILE = "data_report.json"
WANDB_ID_FILE = "wandb_id.txt"
RECORD_FILE = "run.json"
CONFIG_FILE = "config.yaml"
PAIRS_FILE = "val_pairs.csv"
ANSWERS_FILE = "answers.jsonl"
SUMMARY_FILE = "summary.md"
CURVES_FILE = "curves.png"
REPORT_FILE = "report.html"
FAILED_STEPS = "failed-step-*.pt"
OF_THE_MACHINE = ("time/", "memory/")
"""Beginnings of the names of what is logged about the machine, and differs between two equal runs."""
MODEL_FOLDER = "model"
CHECKPOINT_FOLDER = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
BEST_CHECKPOINTS = "best-step=*.ckpt"
WRITTEN_BY_FITS = (
    *(METRICS_FILE, DATA_REPORT_FILE, WANDB_ID_FILE, RECORD_FILE, CONFIG_FILE, PAIRS_FILE, ANSWERS_FILE),
    *(SUMMARY_FILE, CURVES_FILE, REPORT_FILE),
    MODEL_FOLDER,
)
"""What a fit would write over, besides checkpoints."""
DEFAULT_RUN = Path("runs/run")
"""The run folder where none is asked for."""


def check_model_folder(name: str) -> None:
    """Insist that the model of a run gets a folder of its own in that of the run.

    Args:
        name: the setting `export.folder`.

    Raises:
        ValueError: it is no plain name, or that of something else that a fit writes.

    Example:
        >>> check_model_folder("checkpoints")
        Traceback (most recent call last):
        ValueError: export.folder = 'checkpoints'; accepted: a name in the run folder that nothing else has there
    """
    others = {*WRITTEN_BY_FITS, CHECKPOINT_FOLDER} - {MODEL_FOLDER}
    if not name or name.startswith(".") or Path(name).name != name or name in others:
        raise ValueError(f"export.folder = {name!r}; accepted: a name in the run folder that nothing else has there")


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint is of.

    Example:
        >>> str(run_of(Path("runs/orpo/checkpoints/last.ckpt")))
        'runs/orpo'
    """
    folder = checkpoint.parent
    if (folder.name or folder.resolve().name) != CHECKPOINT_FOLDER:
        return folder
    return folder.parent if folder.name else folder.resolve().parent


def config_of(run: Path) -> str | None:
    """The configuration that was saved last, as YAML without secrets; None if there is none.

    Beside a checkpoint that was moved somebody else's may lie: that of a run is config.yaml or config-N.yaml, with a
    model and data.
    """
    named = [path for path in run.glob("config*.yaml") if re.fullmatch(r"config(-\d+)?\.yaml", path.name)]
    for path in sorted(named, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            text = path.read_text(encoding="utf-8")
            values = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(values, dict) and {"model", "data"} <= values.keys():
            return hide_yaml(text)
    return None


def model_folder_of(config: Mapping[str, Any]) -> str:
    """The name of the model's folder in that of a run.

    Args:
        config: of the run; empty where it was not started from the command line.

    Example:
        >>> model_folder_of({"export": {"folder": "final"}}), model_folder_of({})
        ('final', 'model')
    """
    return str(config.get("export", {}).get("folder", MODEL_FOLDER))


def metrics_of(run: Path, steps: int) -> dict[str, float]:
    """The last value of each measure of a run up to a step; none from a file of another kind.

    Args:
        run: the folder.
        steps: how many optimizer steps count. What was measured of the weights after them counts, and is in the row of
            that number; what was measured in training there is of the step that comes next.
    """
    path = run / METRICS_FILE
    if not path.is_file():
        return {}
    values: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                if step <= steps:
                    values |= {
                        name: float(value)
                        for name, value in row.items()
                        if "/" in name
                        and value
                        and (step < steps or name.startswith("val/"))
                        and not name.startswith(OF_THE_MACHINE)
                    }
    except (ValueError, KeyError, TypeError, csv.Error):  # whatever another program keeps under that name
        return {}
    return values
