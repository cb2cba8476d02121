"""Configuration files: found by path or by the short name of one that comes with the package, and read with lines."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from orpo_lightning.one_line import in_line
from orpo_lightning.yaml_aliases import check_aliases

_PACKAGE = Path(__file__).parents[1]
BLOCKS = ("model", "data", "trainer")
"""The parts of a configuration that hold the others; none of them can be null."""
_HOMES = (_PACKAGE, _PACKAGE.parent)
"""Of what is shipped, in a wheel and in a checkout."""


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by short name.

    Example:
        >>> {"orpo", "model/lora"} <= set(shipped_configs())
        True
    """
    return _shipped("configs")


def _shipped(folder_name: str) -> dict[str, Path]:
    folder = next((home / folder_name for home in _HOMES if (home / folder_name).is_dir()), None)
    if folder is None:
        return {}
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.relative_to(folder).parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def find_config(name: str) -> Path:
    """The file of that path or, where there is none, the shipped configuration of that short name.

    Args:
        name: a path, or a short name with or without ``.yaml``.

    Raises:
        ValueError: there is neither.

    Example:
        >>> find_config("orpo").name == find_config("orpo.yaml").name == "orpo.yaml"
        True
    """
    return _found("--config ", name, shipped_configs())


def find_sweep(name: str) -> Path:
    """The sweep file of that path or, where there is none, the shipped one of that short name.

    Args:
        name: a path, or a short name with or without ``.yaml``.

    Raises:
        ValueError: there is neither.
    """
    return _found("sweep ", name, _shipped("sweeps"))


def _found(option: str, name: str, shipped: Mapping[str, Path]) -> Path:
    path = Path(name).expanduser()
    if os.path.isfile(path):  # a Path fails on a name that is too long
        return path
    short = name.removesuffix(".yaml").removesuffix(".yml")
    if short in shipped:
        return shipped[short]
    if os.path.isdir(path):
        raise ValueError(f"{option}{name} is a folder; accepted: a file, or one of: {', '.join(shipped)}")
    near = difflib.get_close_matches(short, shipped, n=1)
    near += [each for each in shipped if each.rpartition("/")[2] == Path(short).name and each not in near]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"{option}{name}: no such file; {hint}shipped: {', '.join(shipped) or 'none'}")


def read_keys(path: Path) -> dict[str, int]:
    """The keys of a YAML file as they are typed on the command line, each with its line.

    A block that is left empty, such as ``data:`` with nothing behind, is as if it were not there.

    Args:
        path: the file.

    Raises:
        ValueError: it is not YAML, or not a mapping, or has a key twice or a null block; names the line.

    Example:
        >>> read_keys(find_config("orpo"))["model.objective.lambda_"] > 1
        True
    """
    try:
        text = path.read_text(encoding="utf-8")
        check_aliases(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise ValueError(f"{path}: not valid YAML: nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = ", ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))) or str(error)
        raise ValueError(f"{where}: not valid YAML: {in_line(' '.join(what.split()))}") from error
    if root is None or _is_null(root):
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}:{root.start_mark.line + 1}: not a configuration; accepted: a mapping of keys")
    for key, value in root.value:
        if key.value in BLOCKS and _is_null(value) and value.value:
            raise ValueError(
                f"{path}:{key.start_mark.line + 1}: {key.value} = {value.value} is not a block of settings; "
                "leave it out"
            )
    root.value = [(key, value) for key, value in root.value if not (key.value in BLOCKS and _is_null(value))]
    return dict(_keys(root, "", path))


def is_too_large(value: object) -> bool:
    """Whether a whole number cannot be compared with the numbers of settings."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _keys(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, int]]:
    lines: dict[str, int] = {}
    for key, value in node.value:
        typed, line = as_typed(f"{prefix}{key.value}"), key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(f"{path}:{line}: {typed or key.value} is set in line {lines[key.value]} already; keep one")
        lines[key.value] = line
        if typed == "config":
            raise ValueError(f"{path}:{line}: config names files on the command line, and is no setting; leave it out")
        if isinstance(value, yaml.ScalarNode):
            _check_scalar(value, f"{path}:{line}: {typed}")
        if key.value != "init_args":
            yield typed, line
        for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(item, yaml.MappingNode):
                yield from _keys(item, f"{typed}." if typed else "", path)


def _check_scalar(node: yaml.ScalarNode, where: str) -> None:
    try:
        value = yaml.SafeLoader("").construct_object(node)
        if is_too_large(value):
            raise ValueError("there is no such number")
    except (ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or error
        raise ValueError(f"{where} = {in_line(node.value)} cannot be read: {reason}") from error


def as_typed(key: str) -> str:
    """A key without what may be left out on the command line.

    Example:
        >>> as_typed("model.init_args.objective.init_args.lambda_"), as_typed("trainer.callbacks+")
        ('model.objective.lambda_', 'trainer.callbacks')
    """
    parts = [part.removesuffix("+") for part in key.split(".")]
    return ".".join(part for part in parts if part != "init_args")


class ConfigFile(ActionConfigFile):
    """The option ``--config``: layers, of which later ones win.

    The files that were read are kept in ``files`` of the parser, with the lines of their keys.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Read one layer."""
        if not any(sign in values for sign in ("{", "\n", "://")):  # neither text of a configuration nor an address
            try:
                path = find_config(values)
                keys = read_keys(path)
            except ValueError as error:
                raise argparse.ArgumentError(None, str(error)) from error
            getattr(parser, "files", {})[path] = keys
            if not keys:
                return  # an empty layer
            values = str(path)
        self.apply_config(parser, cfg, self.dest, values)
