"""Values that refer to other settings, ``${model.optimizer.lr}``, and follow them whatever sets these later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from omegaconf import Container, OmegaConf

from orpo_lightning.command_line.config_files import BLOCKS, is_too_large
from orpo_lightning.secrets import remember
from orpo_lightning.yaml_aliases import check_aliases

MODE = "omegaconf+"
"""The parser mode in which references are resolved when all layers and options have been read."""
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def refer_by_typed_keys() -> None:
    """Let references name settings as the command line does: without the verb and without ``init_args``."""
    load = get_loader("yaml")
    followed: list[str] = []

    def load_with_references(text: str) -> Any:
        try:
            check_aliases(text)
            value = load(text)
        except (ValueError, RecursionError) as error:  # such as a date of the month 13
            raise yaml.YAMLError(str(error)) from error
        remember(value)
        value = _marked(value)
        # of blocks only what a file leaves empty is null here
        return (
            {k: v for k, v in value.items() if v is not None or k not in BLOCKS} if isinstance(value, dict) else value
        )

    set_loader(MODE, load_with_references, (yaml.YAMLError,))
    OmegaConf.register_resolver("setting", lambda key, _root_: _setting(_root_, key, followed), replace=True)


def with_references(words: Sequence[str]) -> list[str]:
    """The words of a command line, with what refers to settings as it is in configuration files.

    Example:
        >>> with_references(["--data.limit", "${data.seed}"])
        ['--data.limit', '${setting:data.seed}']
    """
    return [_REFERENCE.sub(r"${setting:\1}", word) for word in words]


def as_typed_references(text: str) -> str:
    """A message with the references that it has as somebody has typed them."""
    return text.replace("${setting:", "${")


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if is_too_large(value):
        return str(value)  # which no type takes, where it could not even be compared with the numbers of some
    return _REFERENCE.sub(r"${setting:\1}", value) if isinstance(value, str) else value


def _setting(root: Any, key: str, followed: list[str]) -> Any:
    """The value of a setting; in `followed` those whose references have led to it."""
    if key in followed:
        raise ValueError(f"${{{key}}} refers to itself: {' -> '.join([*followed[followed.index(key) :], key])}")
    followed.append(key)
    try:
        return _value(root, key)
    finally:
        followed.pop()


def _value(root: Any, key: str) -> Any:
    verbs = [value for value in root.values() if isinstance(value, Mapping) and {"model", "trainer"} <= value.keys()]
    node = verbs[0] if verbs else root
    for part in key.split("."):
        inside = node.get("init_args") if isinstance(node, Mapping) and part not in node else None
        node = node if inside is None else inside
        if not isinstance(node, Mapping) or part not in node:
            raise ValueError(f"${{{key}}} refers to no setting")
        node = node[part]
    if isinstance(node, Container) and _refers_to(OmegaConf.to_container(node, resolve=False), key):
        raise ValueError(f"${{{key}}} refers to itself: it stands inside of {key}")
    return node


def _refers_to(value: Any, key: str) -> bool:
    if isinstance(value, dict | list):
        return any(_refers_to(each, key) for each in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and f"${{setting:{key}}}" in value
