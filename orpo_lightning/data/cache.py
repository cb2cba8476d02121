"""Tokenized rows on disk, found by a hash of all that they depend on. Safe under many processes."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from orpo_lightning import records
from orpo_lightning.cache_folder import made_in_cache
from orpo_lightning.data.report import SplitReport
from orpo_lightning.data.token_table import TokenTable
from orpo_lightning.whole_file import whole_file

Prepared = tuple[TokenTable, SplitReport]


def content_key(parts: Iterable[str]) -> str:
    """A hash of what the rows depend on; the code that makes them is a part of it."""
    code = [*sorted(Path(__file__).parent.glob("*.py")), Path(records.__file__)]
    digest = hashlib.sha256()
    for part in (*parts, *(path.read_text(encoding="utf-8") for path in code)):
        digest.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:32]


def cached(key: str, prepare: Callable[[], Prepared]) -> Prepared:
    """The prepared rows of that key: from the disk, or prepared now and kept there.

    Of several processes that ask for the same rows at once, one prepares them and the others wait. A damaged file is
    named in a warning and made again.
    """
    path = made_in_cache("data") / f"{key}.npz"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return _load(path)
            except Exception as error:  # whatever a damaged archive makes of itself
                warnings.warn(
                    f"the cache of tokenized rows {path} is damaged and made again ({error})",
                    RuntimeWarning,
                    stacklevel=2,
                )
        table, report = prepare()
        with whole_file(path) as unfinished:
            table.save(unfinished, report=json.dumps(report.to_dict()))
        return table, report


def _load(path: Path) -> Prepared:
    table, texts = TokenTable.load(path)
    return table, SplitReport.from_dict(json.loads(texts["report"]))
