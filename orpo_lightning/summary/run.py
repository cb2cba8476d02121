"""All that the summary of a run says, whoever prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from orpo_lightning.run_folder import (
    ANSWERS_FILE,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    CURVES_FILE,
    DATA_REPORT_FILE,
    METRICS_FILE,
    PAIRS_FILE,
    RECORD_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    config_of,
    model_folder_of,
)
from orpo_lightning.summary.answers import Answer, read_answers
from orpo_lightning.summary.gains import SetGains, gains_of
from orpo_lightning.summary.next_steps import NextStep, next_steps
from orpo_lightning.summary.pairs import read_pairs
from orpo_lightning.summary.series import read_series

Ending = Literal["complete", "stopped", "interrupted"]
_FILES = {
    SUMMARY_FILE: "this summary, with the curves",
    CURVES_FILE: "the curves",
    REPORT_FILE: "a page to look at in a browser",
    METRICS_FILE: "every measure, by optimizer step",
    PAIRS_FILE: "every validation pair at every validation",
    ANSWERS_FILE: "the answers before and after, in full",
    RECORD_FILE: "what was trained and how it ended, for programs",
    DATA_REPORT_FILE: "what became of every row of the data",
    CONFIG_FILE: "all settings, to start the same run again",
    CHECKPOINT_FOLDER: "to go on from, or to export",
}
_MODEL = "the trained model, a Hugging Face folder"
_ESSENTIALS = (
    ("model", "policy", "name_or_path"),
    ("model", "policy", "dtype"),
    ("model", "policy", "lora", "r"),
    ("model", "optimizer", "algorithm"),
    ("model", "optimizer", "lr"),
    ("model", "schedule", "name"),
    ("data", "train"),
    ("data", "val"),
    ("data", "limit"),
    ("data", "global_batch_size"),
    ("data", "max_length"),
    ("trainer", "max_epochs"),
    ("trainer", "max_steps"),
    ("trainer", "accumulate_grad_batches"),
    ("trainer", "precision"),
    ("seed_everything",),
)


@dataclass(frozen=True)
class Speed:
    """What a fit took.

    Args:
        seconds: from its beginning to its end, with validation and the answers.
        steps: optimizer steps that it did.
        step_seconds: their time alone.
        pairs: rows that they trained on; 0 where that is not known.
        tokens: tokens that the policy ran on in them, each prompt counted once.
        peak_gb: largest memory, in 10^9 bytes; None where it is not known.
        tflop: floating-point operations that the policy needed in the steps, in 10^12; 0 where that is not known.
        peak_tflops: 10^12 floating-point operations per second that the hardware can do; None where it is not known.
        saved_by_sharing: share of the work of responses with a prompt each that shared prompts saved; None likewise.
        seconds_waited: time of the steps that they waited for data; NaN where that is not known.
    """

    seconds: float
    steps: int = 0
    step_seconds: float = 0.0
    pairs: float = 0.0
    tokens: float = 0.0
    peak_gb: float | None = None
    tflop: float = 0.0
    peak_tflops: float | None = None
    saved_by_sharing: float | None = None
    seconds_waited: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a fit ended, as far as the trainer knows.

    Args:
        objective: the objective with its arguments, or the name of another module.
        ending: ``complete``, ``stopped`` before its last step, or ``interrupted`` from the keyboard.
        steps: optimizer steps done, those before a resumption included.
        total_steps: those that were planned; None without an end.
        speed: what it took.
        has_policy: whether its checkpoints hold a policy of this package, which can answer prompts.
        reports: what became of the rows of each split, a sentence each.
        warnings: what the run has found to be wrong with itself, a sentence each.
        notes: what the reader would otherwise miss, a sentence each.
    """

    objective: str
    ending: Ending
    steps: int
    total_steps: int | None
    speed: Speed
    has_policy: bool = True
    reports: Sequence[str] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class RunSummary:
    """What a run did, and what it left in its folder.

    Args:
        folder: the folder.
        outcome: how the fit ended.
        base_model: the model that it started from; None where that is not known.
        sets: the gains of each validation set.
        answers: to each prompt, the first and the last answer.
        files: what is in the folder, and what it is.
        next_steps: commands to try.
        settings: the essential ones, by key.
    """

    folder: Path
    outcome: Outcome
    base_model: str | None
    sets: Sequence[SetGains]
    answers: Sequence[tuple[Answer, Answer | None]]
    files: Mapping[str, str]
    next_steps: Sequence[NextStep]
    settings: Mapping[str, Any]

    @classmethod
    def of_run(cls, folder: Path, outcome: Outcome) -> RunSummary:
        """The summary of a run from the files in its folder.

        Args:
            folder: the folder.
            outcome: how the fit ended.
        """
        config = yaml.safe_load(config_of(folder) or "{}")
        settings = _essentials(config)
        answers = _before_and_after(read_answers(folder / ANSWERS_FILE))
        if answers and not any(each and each.answer.strip() for pair in answers for each in pair):
            answers, outcome = [], replace(outcome, notes=[*outcome.notes, "All answers to the prompts are blank."])
        return cls(
            folder=folder,
            outcome=outcome,
            base_model=settings.get("model.policy.name_or_path"),
            sets=gains_of(read_pairs(folder / PAIRS_FILE), read_series(folder / METRICS_FILE)),
            answers=answers,
            files={
                f"{name}/" if (folder / name).is_dir() else name: what
                for name, what in (_FILES | {model_folder_of(config): _MODEL}).items()
                if (folder / name).exists() or name == SUMMARY_FILE
            },
            next_steps=next_steps(
                folder, config, is_complete=outcome.ending == "complete", has_policy=outcome.has_policy
            ),
            settings=settings,
        )

    @property
    def title(self) -> str:
        """What was trained."""
        return self.outcome.objective + (f" on {self.base_model}" if self.base_model else "")

    @property
    def ending(self) -> str:
        """How far it came."""
        done, total = self.outcome.steps, self.outcome.total_steps
        of = "" if total is None or total < done else f" of {total:,}"
        steps = f"{done:,}{of} optimizer steps"
        return {"complete": steps, "stopped": f"stopped after {steps}", "interrupted": f"interrupted after {steps}"}[
            self.outcome.ending
        ]

    @property
    def notes(self) -> list[str]:
        """What the reader would otherwise miss."""
        notes = list(self.outcome.notes)
        if not self.sets:
            notes.append("No preference pairs were validated: there is no accuracy and no margin to show.")
        for each in self.sets:
            where = f" of {each.set}" if each.set else ""
            if not each.has_before:
                notes.append(f'There is no "before"{where}: the policy was not validated before its first step.')
            if not each.has_after:
                notes.append(f'There is no "after"{where}: no validation ran after the first step.')
            elif each.last_step != self.outcome.steps:
                notes.append(f'"after"{where} is after step {each.last_step:,}, the last one that was validated.')
            if not each.pairs:
                notes.append(f"The validation data{where} has no pairs: there is no accuracy and no margin to show.")
        return notes


def _before_and_after(answers: Sequence[Answer]) -> list[tuple[Answer, Answer | None]]:
    """The first and the last answer to each prompt; None as the last where there is one answer alone."""
    by_prompt: dict[str, list[Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.row_id, []).append(answer)
    return [(each[0], each[-1] if len(each) > 1 else None) for each in by_prompt.values()]


def _essentials(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for keys in _ESSENTIALS:
        value: Any = config
        for key in keys:
            value = value.get("init_args", value) if isinstance(value, dict) else None
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[".".join(keys)] = value
    return found
