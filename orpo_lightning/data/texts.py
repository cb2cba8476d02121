"""Rows as they were written, for those that are only kept in tokens."""

from __future__ import annotations

from collections.abc import Collection

from orpo_lightning.data.columns import rename_columns
from orpo_lightning.data.formats import format_named
from orpo_lightning.data.sources import SourceConfig, columns_of, open_source
from orpo_lightning.records import TextRow


def texts_of(config: SourceConfig, split: str, format_name: str, row_ids: Collection[str]) -> dict[str, TextRow]:
    """The text of some rows of a source; it is read no further than the last of them.

    Args:
        config: the source.
        split: ``train`` or ``validation``.
        format_name: the format that its rows were read in.
        row_ids: which rows; those that are not there are left out.

    Example:
        >>> found = texts_of(SourceConfig("sample"), "validation", "text", ["sample/validation:1"])
        >>> [len(row.prompt) for row in found.values()]
        [1]
    """
    source, columns, row_format = open_source(config, split), columns_of(config, split), format_named(format_name)
    found: dict[str, TextRow] = {}
    for row_id, row in source.read() if row_ids else ():
        if row_id in row_ids:
            found[row_id] = row_format.parse(rename_columns(row, columns), row_id)
            if len(found) == len(row_ids):
                break
    return found
