"""Where rows come from: local files and the embedded sample."""

from __future__ import annotations

import glob
import gzip
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import datasets

from orpo_lightning.data.formats import Row

_BUILDERS = {".json": "json", ".jsonl": "json", ".json.gz": "json", ".jsonl.gz": "json", ".parquet": "parquet"}
SAMPLE = "sample"


def read_rows(source: str, split: str) -> Iterator[tuple[str, Row]]:
    """The rows of a source with their ids, ``file:row``, counted from 1.

    Args:
        source: ``sample`` (the pairs that come with the package) or the path of a json, jsonl (both also gzipped)
            or parquet file.
        split: ``train`` or ``validation``; which part of the sample.

    Raises:
        ValueError: there is no such file, or it is of another kind, or it holds no rows.
    """
    if source == SAMPLE:
        with as_file(files("orpo_lightning").joinpath(f"data/samples/{split}.jsonl")) as path:
            yield from _read_file(path, f"sample/{split}")
    else:
        yield from _read_file(Path(source).expanduser(), source)


def _read_file(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    builder = next((builder for suffix, builder in _BUILDERS.items() if path.name.endswith(suffix)), None)
    if not path.is_file():
        raise ValueError(f"no file at {name!r}; accepted: the path of a data file, or 'sample'")
    if builder is None:
        raise ValueError(f"{name}: the file's kind is not known; accepted: {', '.join(_BUILDERS)}")
    datasets.disable_progress_bars()
    try:
        # the path is a name, not a pattern
        rows = datasets.load_dataset(builder, data_files=glob.escape(str(path)), split="train")
    except Exception as error:  # datasets passes on whatever gzip, json or arrow raise
        if _is_blank(path):
            raise ValueError(f"{name}: holds no rows") from None
        raise ValueError(f"{name}: cannot be read as {builder}: {error.__cause__ or error}") from error
    if len(rows) == 0:
        raise ValueError(f"{name}: holds no rows")
    for number, row in enumerate(rows, start=1):
        yield f"{name}:{number}", row


def _is_blank(path: Path) -> bool:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError):
        return False
    return b"".join(content.split()) in (b"", b"[]")
