"""Texts of YAML that have an end."""

from __future__ import annotations

import yaml

_MOST_PARTS = 100_000


def check_aliases(text: str) -> None:
    """Insist that what stands for another part of a text of YAML, ``*name``, makes no endless text of it.

    Args:
        text: of YAML.

    Raises:
        yaml.YAMLError: it is none, or a part holds itself, or it would have more than `_MOST_PARTS` parts.

    Example:
        >>> check_aliases("{first: &tags [a, b], second: *tags}")
    """
    if "*" not in text:
        return
    waiting, parts = [yaml.compose(text, Loader=yaml.SafeLoader)], 0
    while waiting:
        node = waiting.pop()
        parts += 1
        if parts > _MOST_PARTS:
            raise yaml.YAMLError(f"a part holds itself, or there are more than {_MOST_PARTS:,} parts")
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
