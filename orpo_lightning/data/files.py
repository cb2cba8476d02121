"""Reading of data files, with errors that name the file, the line and what is wrong there."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from orpo_lightning.data.columns import Row
from orpo_lightning.one_line import in_line

_PARQUET = ".parquet"
KINDS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", _PARQUET)
"""How the names of data files end."""


def read_file(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """The rows of a file with their ids, ``name:row``; of a file with a row per line, the row is the line.

    Raises:
        ValueError: the file is of another kind, or broken, or holds no rows; names the line where it is.
    """
    if not path.name.endswith(KINDS):
        raise ValueError(f"{name}: the file's kind is not known; accepted: {', '.join(KINDS)}")
    number = 0
    for number, row in _parquet_rows(path, name) if path.name.endswith(_PARQUET) else _json_rows(path, name):
        yield f"{name}:{number}", row
    if not number:
        raise ValueError(f"{name}: holds no rows")


def digest_of_files(paths: Iterable[Path]) -> str:
    """A hash of the contents and names of files, whatever their dates and folders."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _json_rows(path: Path, name: str) -> Iterator[tuple[int, Row]]:
    line_number, found = 0, False
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line_number, raw in enumerate(file, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf").strip()
                if line.startswith(b"[") and not found:
                    yield from _array_rows(line + b"\n" + file.read(), name)
                    return
                if line:
                    found = True
                    yield line_number, _object(_parse(line, f"{name}:{line_number}"), f"{name}:{line_number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{name}: the gzip file is broken or cut off after line {line_number} ({error}); fetch or write it again"
        ) from error


def _array_rows(content: bytes, name: str) -> Iterator[tuple[int, Row]]:
    for number, row in enumerate(_parse(content, name), start=1):
        yield number, _object(row, f"{name}:{number}")


def _parse(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not text in UTF-8 (byte {error.start + 1}: {error.reason})") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(
            f"{where}: not valid JSON ({error.msg}, {place}); a file holds one object per line or one list of objects"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{where}: not valid JSON (nested too deeply)") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row is an object with columns, but this is {type(row).__name__}")
    return row


def _parquet_rows(path: Path, name: str) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        twice = [column for column, count in Counter(file.schema_arrow.names).items() if count > 1]
        if twice:
            raise ValueError(f"it has {twice[0]!r} more than once among its columns")
        for batch in file.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if path.stat().st_size == 0:
            return
        what = in_line(" ".join(str(error).split()))
        raise ValueError(f"{name}: cannot be read as parquet after row {number}: {what}") from error
