"""Reads what the client of Weights & Biases wrote offline, for the tests: records in the log format of LevelDB."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_HEADER = struct.Struct("<IHB")  # checksum, length, and whether it is a whole record, its first, middle or last part
_WHOLE, _LAST = 1, 4


@dataclass
class OfflineRun:
    """One offline run.

    Args:
        folder: where it is.
    """

    folder: Path
    id: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from wandb.proto import wandb_internal_pb2

        (path,) = self.folder.glob("*.wandb")
        names: list[str] = []
        for content in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project = record.run.run_id, record.run.project
                self.config |= _values(record.run.config.update)
            elif kind == "config":
                self.config |= _values(record.config.update)
            elif kind == "history":
                self.history.append(_values(record.history.item))
            elif kind == "metric":
                names.append(record.metric.name)
                index = record.metric.step_metric_index
                axis = record.metric.step_metric or (names[index - 1] if index else "")
                self.axes[record.metric.name or record.metric.glob_name] = axis


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> list[bytes]:
    records, parts, place = [], [], 7  # of the file's own header
    while place + _HEADER.size <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER.size:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        parts.append(content[place : place + length])
        place += length
        if kind in (_WHOLE, _LAST):
            records.append(b"".join(parts))
            parts = []
    return records
