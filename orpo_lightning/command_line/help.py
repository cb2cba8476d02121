"""The help of the trainer's verbs: the settings that most runs are about, and where the others are."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from lightning import LightningDataModule, LightningModule, Trainer

from orpo_lightning.command_line.config_files import shipped_configs
from orpo_lightning.command_line.options import (
    DEFAULT_CLASSES,
    Option,
    default_options,
    import_class,
    options_of,
    options_of_run,
)
from orpo_lightning.objectives import Objective, list_objectives
from orpo_lightning.verbs import HELP

_TRAINER = (
    *("max_epochs", "max_steps", "max_time", "accumulate_grad_batches", "gradient_clip_val", "precision"),
    *("accelerator", "devices", "strategy", "val_check_interval", "limit_train_batches", "limit_val_batches"),
    *("logger", "callbacks", "enable_progress_bar", "default_root_dir"),
)
"""The settings of the trainer that the short help shows."""
_FEW, _YES_OR_NO = 6, ("true", "false")
_MODULE_OF_DATA = ("model.objective", "model.policy.name_or_path", "model.policy.revision")
_BASES = {"model": LightningModule, "model.objective": Objective, "data": LightningDataModule, "trainer": Trainer}
_PLACE = {
    "fit": "checkpoint to go on from: a file, last or best",
    "validate": "checkpoint to measure: a file, last or best",
    "test": "checkpoint to measure: a file, last or best",
    "data": "of a fit; not looked at here",
    "estimate": "of a fit; not looked at here",
}


def help_for(verb: str, arguments: Sequence[str]) -> str | None:
    """The help that a command line asks for; None if it asks for none, or for that of a class of another kind.

    Args:
        verb: its first word.
        arguments: the others.
    """
    if "-h" in arguments or "--help" in arguments:
        return _short(verb)
    for word, following in pairwise([*arguments, "--"]):
        option, _, value = word.partition("=")
        key = option.removeprefix("--").removesuffix(".help")
        if option == f"--{key}.help" and key in _BASES:
            return _all_of(key, value or ("" if following.startswith("-") else following))
    return None


def _short(verb: str) -> str:
    options = sorted(default_options(), key=lambda option: not option.key.startswith("model.objective"))
    module = [each for each in options if each.key.startswith("model.")]
    data = [each for each in options if each.key.startswith("data.") and not each.key.startswith("data.tokenizer")]
    groups: dict[str, Iterable[Option]] = {"": _general(verb), "the module": module, "the data": data}
    if verb == "data":
        groups["the module"] = [each for each in module if each.key in _MODULE_OF_DATA]
    else:
        trainer = {option.key: option for option in options_of(Trainer, "trainer")}
        groups["the trainer"] = [trainer[f"trainer.{name}"] for name in _TRAINER]
    if verb == "fit":
        groups["what the run leaves behind"] = options_of_run()
    lines = [f"usage: orpo-lightning {verb} [--config NAME|FILE]... [--KEY VALUE]...", "", HELP[verb], ""]
    for title, shown in groups.items():
        lines += [f"{title}:"] if title else []
        lines += [*_listed(shown, brief=True), ""]
    lines += [
        "in full: orpo-lightning fit --model.help [CLASS] | --data.help [CLASS] | --trainer.help",
        "the objectives and their arguments: orpo-lightning objectives",
    ]
    return "\n".join(lines)


def _general(verb: str) -> Iterator[Option]:
    yield Option("config", f"a file, or one of: {', '.join(shipped_configs())}. Later layers win, options over all")
    yield Option("print_config", "print the settings that all layers and options come to, and do nothing else")
    yield Option("seed_everything", "of everything that is random", "0")
    yield Option("ckpt_path", _PLACE[verb])
    if verb == "data":
        yield Option("show", "how many rows to print as the model sees them", "2")
        yield Option("dropped", "list the rows that this reason dropped")


def _all_of(key: str, name: str) -> str:
    base = _BASES[key]
    cls = base if key == "trainer" else import_class(name or DEFAULT_CLASSES[key]) or _named(base, name)
    if cls is None:
        raise ValueError(f"--{key}.help {name}: no {base.__name__} is named so; give the path of a class")
    options = [*options_of(cls, key)]
    if cls is import_class(DEFAULT_CLASSES.get(key, "")):
        options += [each for each in default_options() if each.key.startswith(f"{key}.") and each not in options]
    return "\n".join([f"--{key}.KEY VALUE, of {cls.__name__}:", *_listed(options, brief=False)])


def _are_said(option: Option, text: str) -> bool:
    return all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in option.choices)


def _named(base: type, name: str) -> type | None:
    found = import_class(f"orpo_lightning.{name}")
    return found if found is not None and issubclass(found, base) else None


def _listed(options: Iterable[Option], *, brief: bool) -> Iterator[str]:
    options = list(options)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    column = max(len(option.key) for option in options) + 6
    for option in options:
        text = option.summary if brief else option.help
        if option.key == "model.objective":
            text += (
                f": {', '.join(list_objectives())}, or the path of your own class. Its arguments: --{option.key}.NAME"
            )
        elif 0 < len(option.choices) <= _FEW and option.default not in _YES_OR_NO and not _are_said(option, text):
            text += f"{'; ' if text else ''}{', '.join(option.choices)}"
        text += "" if option.default is None else f" [{option.default}]"
        start = f"  --{option.key}".ljust(column)
        yield textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * column, break_long_words=False)
