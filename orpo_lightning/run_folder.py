"""What a run left in its folder, for the card of its model."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import yaml

METRICS_FILE = "metrics.csv"
DATA_REPORT_FILE = "data_report.json"
WANDB_ID_FILE = "wandb_id.txt"
CONFIG_FILE = "config.yaml"
PAIRS_FILE = "val_pairs.csv"
ANSWERS_FILE = "answers.jsonl"
SUMMARY_FILE = "summary.md"
CURVES_FILE = "curves.png"
OF_THE_MACHINE = ("time/", "memory/")
"""Beginnings of the names of what is logged about the machine, and differs between two equal runs."""


def config_of(run: Path) -> str | None:
    """The configuration that was saved last, as YAML; None if there is none.

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
            return text
    return None


def metrics_of(run: Path, steps: int) -> dict[str, float]:
    """The last value of each measure within the first optimizer steps of a run; none from a file of another kind.

    Args:
        run: the folder.
        steps: how many steps count.
    """
    path = run / METRICS_FILE
    if not path.is_file():
        return {}
    values: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if int(row.pop("step")) < steps:
                    measures = {name: value for name, value in row.items() if "/" in name and value}
                    values |= {n: float(v) for n, v in measures.items() if not n.startswith(OF_THE_MACHINE)}
    except (ValueError, KeyError, TypeError, csv.Error):  # whatever another program keeps under that name
        return {}
    return values
