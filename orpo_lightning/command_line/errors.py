"""Mistakes on the command line and in configuration files, said in one line that names the nearest that is right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from orpo_lightning.command_line.config_files import as_typed
from orpo_lightning.command_line.messages import Reason, choices_of, reason_of, types_of, value_of
from orpo_lightning.command_line.options import Option, import_class, options_of
from orpo_lightning.objectives import get_objective, list_objectives
from orpo_lightning.verbs import TRAINER_VERBS

_EXAMPLES = {"model.policy.lora": "r 16", "model.optimizer": "lr 1e-5", "model.policy": "name_or_path smollm2"}
"""Of blocks that somebody might set as if they were a value."""
_NOT_FOR_USERS = ("DummyLogger", "MetricsFile")
"""Of the loggers."""
_KINDS = {
    **{
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "list": "a list in brackets, [A, B]",
    },
    **{"dict": "a mapping", "Mapping": "a mapping", "NoneType": "null"},
}


@dataclass(frozen=True)
class Typed:
    """What a person wrote, to tell where a mistake is.

    Args:
        arguments: the words of the command line.
        files: the lines of the keys of each configuration file, in the order in which they were read.
        options: those that the verb has.
    """

    arguments: Sequence[str]
    files: Mapping[Path, Mapping[str, int]]
    options: Sequence[Option]

    def name(self, key: str) -> str:
        """A key with where it stands: the option, or file and line."""
        flags = [as_typed(word[2:].partition("=")[0]) for word in self.arguments if word.startswith("--")]
        if not any(flag == key or flag.startswith(f"{key}.") for flag in flags):
            for path, keys in reversed(list(self.files.items())):
                if key in keys:
                    return f"{path}:{keys[key]}: {key}"
        return f"--{key}" if key in flags else key

    @property
    def without_value(self) -> str:
        """The last option that is followed by no value."""
        lone = [word for word, after in pairwise([*self.arguments, "--"]) if word[:2] == "--" == after[:2]]
        return next((word for word in reversed(lone) if "=" not in word), "")


def explain(message: str, typed: Typed) -> str:
    """Say in one line what is wrong, where, and what is accepted.

    Args:
        message: what jsonargparse says.
        typed: what it is about.
    """
    reason = reason_of(message)
    for pattern, sentence in _SENTENCES:
        found = re.search(pattern, reason.text)
        if found:
            return sentence(reason, found[1], message, typed)
    return f"{typed.name(reason.key)}: {reason.text}" if reason.key else reason.text


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known key that a misspelt one comes nearest to.

    Example:
        >>> nearest_key("modle.lr", ["model.optimizer.lr", "data.limit"])
        'model.optimizer.lr'
        >>> nearest_key("model.optimizer.lrr", ["model.optimizer.lr", "model.optimizer.options"])
        'model.optimizer.lr'
    """
    known = list(known)
    parts, start = key.split("."), ""
    for i, part in enumerate(parts):
        children = _children(known, start)
        if part not in children:
            near = difflib.get_close_matches(part, children, n=1, cutoff=0.5)
            same_leaf = [each for each in known if each.split(".")[-1] == parts[-1]]
            candidate = ".".join((*parts[:i], *near, *parts[i + 1 :]))
            complete = near and any(each == candidate or each.startswith(f"{candidate}.") for each in known)
            if (complete and len(parts) > 1) or not same_leaf:  # a word that is the name of a setting means that one
                break
            return difflib.get_close_matches(key, same_leaf, n=1, cutoff=0)[0]
        start = f"{start}{part}."
    else:
        return None
    if complete or not near:
        return candidate if complete else next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.8)), None)
    # a mistake in a later part as well
    return nearest_key(candidate, known) or candidate


def _children(known: Iterable[str], start: str) -> list[str]:
    return list(dict.fromkeys(each[len(start) :].split(".")[0] for each in known if each.startswith(start)))


def _unknown_key(reason: Reason, name: str, message: str, typed: Typed) -> str:
    key = as_typed(name.split()[0].removeprefix("--").partition("=")[0])
    if not name.startswith("--") and "unrecognized" in reason.text:
        return f"{name.split()[0]!r} belongs to no option; options are typed as --key value"
    if key == "class_path":
        example = f"{{class_path: {reason.class_path.rpartition('.')[2]}, init_args: {{...}}}}"
        return f"{typed.name(reason.class_key)}: the arguments of a class stand under init_args: {example}"
    if "Group '" in reason.text:
        group = re.search(r"Group '([^']*)'", reason.text)
        key = f"{group[1]}.{key}" if group else key
    if reason.class_key:
        key = f"{reason.class_key}.{key}"
    elif key.split(".")[0] not in _children([option.key for option in typed.options], "") and reason.key:
        key = f"{reason.key}.{key}"
    known = [option.key for option in _known(reason, typed)]
    start = key.rpartition(".")[0]
    accepted = _children([each for each in known if each != start], f"{start}.") if start else []
    while start and not accepted:
        start = start.rpartition(".")[0]
        accepted = _children(known, f"{start}.") if start else []
    subject = typed.name(key)
    if key.startswith("model.objective."):
        others = [name for name in list_objectives() if key in (each.key for each in _of_objective(name))]
        if others:
            return f"{subject} is a setting of {', '.join(others)}; accepted: {', '.join(accepted)}"
        near = nearest_key(key, known)
    else:  # those of another objective are meant as well
        of_objectives = (option.key for name in list_objectives() for option in _of_objective(name))
        near = nearest_key(key, [*known, *of_objectives])
    near = near and (f"--{near}" if subject.startswith("--") else near)
    said = f"{subject} is not a setting" + (f"; did you mean {near}?" if near else "")
    if near and len(accepted) > 8:
        return said
    if not accepted or len(accepted) > 20:
        return said if near else f"{said}; settings: orpo-lightning fit --help"
    return f"{said}{'' if near else ';'} accepted: {', '.join(accepted)}"


def _of_objective(name: str) -> Sequence[Option]:
    return options_of(get_objective(name), "model.objective")


def _known(reason: Reason, typed: Typed) -> Sequence[Option]:
    """The options, where the reason is about another class than the default one with those of that class."""
    cls = import_class(reason.class_path)
    if cls is None or not reason.class_key:
        return typed.options
    others = [option for option in typed.options if not option.key.startswith(f"{reason.class_key}.")]
    below = [option for option in typed.options if option not in others]
    own = options_of(cls, reason.class_key)
    nested = [option for option in below if any(option.key.startswith(f"{each.key}.") for each in own)]
    return (*others, *own, *nested)


def _no_class(reason: Reason, name: str, message: str, typed: Typed) -> str:
    bases = [base for option in _known(reason, typed) if option.key == reason.key for base in option.classes]
    subject = typed.name(reason.key)
    if not bases:
        return f"{subject}: no class is named {name!r}"
    own = {cls.__name__ for base in bases for cls in _below(base)}
    words = {each.lower(): each for each in sorted(own)}
    near = difflib.get_close_matches(name.lower(), words, n=1)
    hint = f"did you mean {words[near[0]]!r}? " if near else ""
    known = f"known: {', '.join(words.values())}, or the path of a class" if len(words) <= 12 else "give a class path"
    return f"{subject}: no {bases[0].__name__} is named {name!r}; {hint}{known}"


def _below(base: type) -> Iterator[type]:
    found: list[type] = base.__subclasses__()
    for cls in found:
        yield from _below(cls)
        is_of_base = cls.__module__.split(".")[0] == "lightning" and base.__name__.startswith("Lightning")
        if cls.__name__ in _NOT_FOR_USERS:
            continue
        if not (is_of_base or cls.__name__.startswith("_") or getattr(cls, "__abstractmethods__", None)):
            yield cls


def _no_module(reason: Reason, name: str, message: str, typed: Typed) -> str:
    return f"{typed.name(reason.key)}: {reason.class_path!r} cannot be imported: no module is named {name!r}"


def _not_a_choice(reason: Reason, name: str, message: str, typed: Typed) -> str:
    choices, value = choices_of(message), value_of(message)
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{typed.name(reason.key)} = {value}; {hint}accepted: {', '.join(choices)}"


def _not_a_block(reason: Reason, name: str, message: str, typed: Typed) -> str:
    example = (
        _EXAMPLES.get(reason.key) or _children([option.key for option in _known(reason, typed)], f"{reason.key}.")[0]
    )
    value = "null" if name == "None" else name or value_of(message)
    said = f"{typed.name(reason.key)} = {value} is not a block of settings"
    return f"{said}; set one of them, such as --{reason.key}.{example}"


def _not_of_type(reason: Reason, name: str, message: str, typed: Typed) -> str:
    inside = re.search(r"NestedArg\(key='([^']*)'", message)
    if inside and not reason.key.endswith(inside[1]):  # else it is the block around that was given it
        return f"{typed.name(f'{reason.key}.{inside[1]}')} is not a setting; {reason.key} is a single value"
    kinds = [_KINDS.get(each, each) for each in types_of(message)]
    return f"{typed.name(reason.key)} = {value_of(message)}; accepted: {', '.join(kinds)}"


def _no_value(reason: Reason, name: str, message: str, typed: Typed) -> str:
    return f"{typed.without_value or name} needs a value"


def _required(reason: Reason, name: str, message: str, typed: Typed) -> str:
    block, _, key = name.partition(", ")[0].rpartition(".")
    key = key if block in ("", *TRAINER_VERBS) else f"{block}.{key}"
    return f"{typed.name(f'{reason.key}.{key}' if reason.key else key)} needs a value"


_SENTENCES = (
    (r"Option '([^']*)' is not accepted", _unknown_key),
    (r"unrecognized arguments: (.*)", _unknown_key),
    (r"does not accept option '([^']*)'", _unknown_key),
    (r"the following arguments are required: (.*)", _required),
    (r"No module named '([^']*)'", _no_module),
    (r"Expected an? typing\.Literal\[(.*?)\]", _not_a_choice),
    (r"Expected a dot import path string: (.*)", _no_class),
    (r"Unable to load config '([^']*)'", _not_a_block),
    (r"Expected (?:an? )?<class '([^']*)'>", _not_of_type),
    (r"argument (\S+): expected one argument", _no_value),
)
