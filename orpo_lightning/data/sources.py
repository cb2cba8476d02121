"""Where rows come from: local files and folders, data sets of the hub, and the embedded sample."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from orpo_lightning.data.columns import COLUMNS, Row
from orpo_lightning.data.files import KINDS, digest_of_files, read_file
from orpo_lightning.data.folders import SPLIT_WORDS, files_of_split
from orpo_lightning.data.formats import format_named

SAMPLE = "sample"


@dataclass(frozen=True)
class SourceConfig:
    """Where rows come from.

    Args:
        path: ``sample`` (the pairs that come with the package), a short name (``hh-rlhf``, ``hh-rlhf/harmless-base``,
            ``ultrafeedback``, ``ultrafeedback-cleaned``), a file (json, jsonl, both also gzipped, parquet), a folder
            of such files, or the id of a data set on the hub.
        split: which part of a folder or of a hub data set; None is the one for training or for validation.
        config: configuration of a hub data set.
        data_dir: folder inside a hub data set.
        revision: branch, tag or commit of a hub data set.
        format: of the rows, or the path of a :class:`~orpo_lightning.Format` of your own; None is told from them.
        columns: our name of a column to that of the data, where they differ.
        weight: how often an epoch goes over the rows: 0.5 takes a half of them, drawn once, 2 takes each twice.
    """

    path: str
    split: str | None = None
    config: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.format is not None:
            format_named(self.format)
        unknown = sorted(set(self.columns) - set(COLUMNS))
        if unknown:
            near = difflib.get_close_matches(unknown[0], COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"data.columns: {unknown[0]!r} is not a column; {hint}known: {', '.join(COLUMNS)}")
        if not 0 < self.weight < 1000:
            raise ValueError(f"data: the weight of {self.path} is {self.weight!r}; accepted: a number in (0, 1000)")


SHORT_NAMES: dict[str, dict[str, SourceConfig]] = {
    **{
        f"hh-rlhf{'/' if subset else ''}{subset or ''}": {
            "train": SourceConfig("Anthropic/hh-rlhf", split="train", data_dir=subset),
            "validation": SourceConfig("Anthropic/hh-rlhf", split="test", data_dir=subset),
        }
        for subset in (None, "harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
    },
    "ultrafeedback": {
        "train": SourceConfig("HuggingFaceH4/ultrafeedback_binarized", split="train_prefs"),
        "validation": SourceConfig("HuggingFaceH4/ultrafeedback_binarized", split="test_prefs"),
    },
    "ultrafeedback-cleaned": {
        "train": SourceConfig(
            "argilla/ultrafeedback-binarized-preferences-cleaned",
            split="train",
            columns={"score_chosen": "chosen-rating", "score_rejected": "rejected-rating"},
        )
    },
}
"""Data sets of the ORPO paper: where they are on the hub, which splits to take and how their columns are called."""


@dataclass(frozen=True)
class Source:
    """A source that has been found.

    Args:
        name: how it is called in reports, and what row ids begin with.
        digest: hash of its content.
        read: goes over its rows with their ids, ``file:row``, counted from 1.
    """

    name: str
    digest: str
    read: Callable[[], Iterator[tuple[str, Row]]]


def open_source(config: SourceConfig, split: str) -> Source:
    """Find a source.

    Args:
        config: where it is.
        split: ``train`` or ``validation``; decides where the configuration leaves it open.

    Raises:
        ValueError: there is no such file, folder, data set or split.
    """
    if not config.path:
        raise ValueError(f"data: the path of a source is empty; {_short_names()}")
    if config.path == SAMPLE:
        _refuse(config, "the sample", "split", "config", "data_dir", "revision")
        sample = Path(str(files("orpo_lightning").joinpath(f"data/samples/{split}.jsonl")))
        return _local_source([(f"sample/{split}", sample)], "sample")
    path = Path(config.path).expanduser()
    if config.path in SHORT_NAMES and not path.exists():
        _refuse(config, "a short name", "config", "data_dir")
        return _hub_source(_of_short_name(config, split), split)
    if path.is_file():
        _refuse(config, "a file", "split", "config", "data_dir", "revision")
        return _local_source([(config.path, path)], config.path)
    if path.is_dir():
        _refuse(config, "a folder", "config", "data_dir", "revision")
        found = files_of_split(path, config.split, split)
        return _local_source([(str(file), file) for file in found], ", ".join(str(file) for file in found))
    if _is_hub_id(config.path):
        return _hub_source(config, split)
    setting = {"train": "data.train", "validation": "data.val"}.get(split, "data")
    raise ValueError(f"{setting}: {_nothing_there(config.path, path)}")


def _refuse(config: SourceConfig, kind: str, *settings: str) -> None:
    given = [name for name in settings if getattr(config, name) is not None]
    if given:
        raise ValueError(
            f"{config.path}: {given[0]} = {getattr(config, given[0])!r} means nothing for {kind}; leave it out"
        )


def _local_source(named: list[tuple[str, Path]], name: str) -> Source:
    def read() -> Iterator[tuple[str, Row]]:
        return itertools.chain.from_iterable(read_file(path, file_name) for file_name, path in named)

    return Source(name, digest_of_files(path for _, path in named), read)


def _of_short_name(config: SourceConfig, split: str) -> SourceConfig:
    splits = SHORT_NAMES[config.path]
    if split not in splits and config.split is None:
        raise ValueError(f"{config.path} has no {split} split; name another source, or hold rows out into a file")
    known = splits.get(split) or next(iter(splits.values()))
    return replace(
        known,
        split=config.split or known.split,
        revision=config.revision,
        format=config.format,
        columns={**known.columns, **config.columns},
    )


def columns_of(config: SourceConfig, split: str) -> Mapping[str, str]:
    """The mapping of columns of a source, that of a short name included."""
    is_short = config.path in SHORT_NAMES and not Path(config.path).exists()
    return _of_short_name(config, split).columns if is_short else config.columns


def _hub_source(config: SourceConfig, split: str) -> Source:
    import datasets

    datasets.disable_progress_bars()
    arguments: dict[str, Any] = {"data_dir": config.data_dir, "revision": config.revision}
    try:
        splits = datasets.get_dataset_split_names(config.path, config.config, **arguments)
        words = SPLIT_WORDS[split] if config.split is None else (config.split,)
        name = next((word for word in words if word in splits), None)
        if name is None:
            raise ValueError(f"there is no split {' or '.join(words)}; set split to one of: {', '.join(splits)}")
        rows = datasets.load_dataset(config.path, config.config, split=name, **arguments)
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(
            f"{config.path} is no file or folder here and cannot be loaded from the hub ({_first_line(error)}); "
            f"{_short_names()}"
        ) from error
    except Exception as error:  # whatever a builder raises
        raise ValueError(f"{config.path} cannot be loaded from the hub: {_first_line(error)}") from error
    label = "/".join(part for part in (config.path, config.config, config.data_dir, name) if part)
    # of the builder's configuration and of what was downloaded
    digest = hashlib.sha256(f"{label} {rows._fingerprint}".encode()).hexdigest()
    return Source(label, digest, lambda: ((f"{label}:{number}", row) for number, row in enumerate(rows, start=1)))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _is_hub_id(path: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None and not path.endswith(KINDS) and path[0] not in "./~"


def _nothing_there(given: str, path: Path) -> str:
    siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [*difflib.get_close_matches(given, [SAMPLE, *SHORT_NAMES], n=1)]
    near += [
        str(path.parent / name) for name in difflib.get_close_matches(path.name, siblings, n=1) if name != path.name
    ]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no file or folder at {given!r}; {hint}{_short_names()}"


def _short_names() -> str:
    return f"accepted: a file, a folder, a hub id (owner/name), or one of: {', '.join([SAMPLE, *SHORT_NAMES])}"
