"""Commands to try after a run, right for this very run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_lightning.run_folder import CHECKPOINT_FOLDER, CONFIG_FILE, model_folder_of
from orpo_lightning.summary.words import short_path

_COMMAND = "orpo-lightning"
_LAMBDAS = (0.2, 0.1)


@dataclass(frozen=True)
class NextStep:
    """A command.

    Args:
        what: what it does.
        words: the command, word by word.
    """

    what: str
    words: tuple[str, ...]


def next_steps(folder: Path, config: Mapping[str, Any], *, is_complete: bool, has_policy: bool) -> list[NextStep]:
    """The commands to try after a run.

    Args:
        folder: of the run.
        config: its configuration; empty where it was not started from the command line.
        is_complete: whether it came to its end.
        has_policy: whether its checkpoints hold a policy of this package.
    """
    steps = []
    has_checkpoint = any((folder / CHECKPOINT_FOLDER).glob("*.ckpt"))
    if (folder / CONFIG_FILE).exists() and config:
        again = (_COMMAND, "fit", "--config", short_path(folder / CONFIG_FILE))
        if has_checkpoint and not is_complete:
            steps.append(NextStep("go on where this run stopped", (*again, "--ckpt_path", "last")))
        steps += _other_runs(folder, config, again)
    model = folder / model_folder_of(config)
    has_model = model.is_dir()
    if has_model or (has_checkpoint and has_policy):
        generate = (_COMMAND, "generate", "--model", short_path(model if has_model else folder))
        files = ("--prompts", "prompts.txt", "--out", "generated.jsonl")
        steps.append(NextStep("answer prompts of your own, one a line in prompts.txt", (*generate, *files)))
    return steps


def _other_runs(folder: Path, config: Mapping[str, Any], again: tuple[str, ...]) -> list[NextStep]:
    objective = _init_args(config.get("model")).get("objective")
    if not isinstance(objective, Mapping):
        return []
    name, arguments = str(objective.get("class_path", "")).rpartition(".")[2], _init_args(objective)

    def to(other: str) -> tuple[str, ...]:
        return ("--trainer.default_root_dir", short_path(_sibling(folder, other)))

    steps = []
    if name != "KTO":  # whose data may have no pairs
        other = "DPO" if name != "DPO" else "ORPO"
        steps.append(NextStep(f"{other} on the same data", (*again, "--model.objective", other, *to(other.lower()))))
    data: tuple[str, ...] = ("--data.train", "train.jsonl", "--data.val", "val.jsonl")
    for key in ("format", "columns"):
        if _init_args(config.get("data")).get(key):
            data += (f"--data.{key}", "null")
    if _init_args(config.get("data")).get("limit"):
        data += ("--data.limit", "null")
    if config.get("trainer", {}).get("max_steps", -1) != -1:  # so many steps may be a small part of other data
        data += ("--trainer.max_steps", "-1", "--trainer.max_epochs", "1")
    columns = "prompt, chosen, rejected"
    steps.append(NextStep(f"your own data (columns {columns})", (*again, *data, *to("own-data"))))
    if name == "ORPO":
        value = next(each for each in _LAMBDAS if each != arguments.get("lambda_"))
        lambda_ = ("--model.objective.lambda_", str(value))
        steps.append(NextStep(f"another strength: lambda {value}", (*again, *lambda_, *to(f"orpo-lambda-{value}"))))
    return steps


def _init_args(value: Any) -> Mapping[str, Any]:
    """The arguments of a block of a configuration, which may or may not name its class."""
    block = value.get("init_args", value) if isinstance(value, Mapping) else {}
    return block if isinstance(block, Mapping) else {}


def _sibling(folder: Path, name: str) -> Path:
    resolved = folder.resolve()
    # a run in the working folder itself has no siblings of its own
    return Path("runs", name) if resolved == Path.cwd().resolve() else resolved.parent / name
