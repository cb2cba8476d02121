"""Runs that are made up file by file, as a fit leaves them."""

import json

import yaml

from orpo_lightning.loggers import MetricsFile
from orpo_lightning.run_folder import ANSWERS_FILE, CONFIG_FILE, DATA_REPORT_FILE, PAIRS_FILE, RECORD_FILE
from orpo_lightning.summary.answers import Answer, write_answers
from orpo_lightning.summary.pairs import PairMeasures, write_pairs
from orpo_lightning.summary.record import RunRecord, write_record


def config(objective="ORPO", seed=0, folder="runs/a", **arguments):
    """A configuration as a fit keeps it."""
    return {
        "seed_everything": seed,
        "model": {
            "class_path": "orpo_lightning.PreferenceModule",
            "init_args": {
                "objective": {"class_path": f"orpo_lightning.{objective}", "init_args": arguments or {"lambda_": 0.1}},
                "policy": {"name_or_path": "tiny", "lora": {"r": 0}},
            },
        },
        "data": {"class_path": "orpo_lightning.PreferenceDataModule", "init_args": {"train": "sample"}},
        "trainer": {"max_epochs": 1, "default_root_dir": folder},
        "ckpt_path": None,
    }


def pairs_of(margins, step=4, set="", chosen_tokens=3, weight=None, nll=2.0):
    """Pairs with these margins; the chosen mean is -nll."""
    return [
        PairMeasures(
            step, set, f"a:{i}", -nll, -nll - each, -nll * chosen_tokens, 2 * (-nll - each), chosen_tokens, 2, w
        )
        for i, (each, w) in enumerate(zip(margins, weight or [1.0] * len(margins), strict=True), start=1)
    ]


def make_run(folder, *, record=None, configuration=None, pairs=(), metrics=None, answers=(), report=None):
    """A run folder.

    Args:
        folder: where.
        record: RunRecord; by default of a complete run of ORPO.
        configuration: by default config().
        pairs: of all validations.
        metrics: the logged values by step.
        answers: to prompts.
        report: of the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    default = RunRecord("complete", None, "ORPO", {"lambda_": 0.1}, "lambda_", "tiny", 100, 100, 4, 4)
    write_record(folder / RECORD_FILE, record or default)
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(configuration or config(folder=str(folder))))
    for step in sorted({pair.step for pair in pairs}):
        write_pairs(folder / PAIRS_FILE, step, [pair for pair in pairs if pair.step == step])
    file = MetricsFile(folder)
    for step, values in (metrics or {}).items():
        file.log_metrics(values, step)
    for step in sorted({answer.step for answer in answers}):
        write_answers(folder / ANSWERS_FILE, step, [answer for answer in answers if answer.step == step])
    (folder / DATA_REPORT_FILE).write_text(json.dumps(report or {}))
    return folder


def answer(step=4, tokens=10, finished=True, text="Yes.", row_id="a:1"):
    """An answer."""
    return Answer(step, row_id, "Well?", text, finished, tokens)
