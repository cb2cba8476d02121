"""The results of runs, from the files in their folders."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from orpo_lightning.run_folder import (
    ANSWERS_FILE,
    DATA_REPORT_FILE,
    METRICS_FILE,
    MODEL_FOLDER,
    PAIRS_FILE,
    RECORD_FILE,
    config_of,
)
from orpo_lightning.summary.answers import Answer, read_answers
from orpo_lightning.summary.pairs import PairMeasures, read_pairs
from orpo_lightning.summary.record import RunRecord, read_record
from orpo_lightning.summary.series import Series, read_series


@dataclass(frozen=True)
class Run:
    """What the folder of a run tells. Files are read when they are first asked for.

    Args:
        folder: the folder.
        name: what tells it from the runs beside it.
        record: what was trained and how it ended.
    """

    folder: Path
    name: str
    record: RunRecord

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting by its key, as it is typed."""
        return dict(_leaves(yaml.safe_load(config_of(self.folder) or "{}") or {}))

    @cached_property
    def series(self) -> dict[str, Series]:
        """The measures by name."""
        return read_series(self.folder / METRICS_FILE)

    @cached_property
    def pairs(self) -> list[PairMeasures]:
        """The validation pairs of all validations."""
        return read_pairs(self.folder / PAIRS_FILE)

    @cached_property
    def answers(self) -> list[Answer]:
        """The answers to validation prompts."""
        return read_answers(self.folder / ANSWERS_FILE)

    @cached_property
    def data_report(self) -> dict[str, Any]:
        """What became of the rows of the data."""
        path = self.folder / DATA_REPORT_FILE
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    @property
    def strength(self) -> str:
        """The strength in words, such as ``lambda 0.1``; empty where there is none."""
        return strength_in_words(self.record.strength_name, self.record.strength)

    @property
    def label(self) -> str:
        """What it trained: objective, strength and model."""
        model = self.record.model
        return " ".join(filter(None, (self.record.objective, self.strength, model and model_names([model])[model])))

    @property
    def sets(self) -> tuple[str, ...]:
        """The validation sets that have pairs; the name of an only one is empty."""
        return tuple(dict.fromkeys(pair.set for pair in self.pairs))

    def last_pairs(self, of_set: str) -> list[PairMeasures]:
        """The pairs of a validation set as the last validation measured them."""
        pairs = [pair for pair in self.pairs if pair.set == of_set]
        last = max((pair.step for pair in pairs), default=0)
        return [pair for pair in pairs if pair.step == last]

    def validated_at(self, of_set: str) -> int | None:
        """Optimizer steps before the last validation of a set; None where there was none."""
        pairs, logged = self.last_pairs(of_set), self.series.get(self.logged("nll_response", of_set))
        if pairs:
            return pairs[0].step
        return None if logged is None else int(logged.steps[-1])

    @staticmethod
    def logged(measure: str, of_set: str) -> str:
        """The name under which a measure of a validation set is logged."""
        return f"val/{of_set}/{measure}" if of_set else f"val/{measure}"

    def last(self, measure: str) -> float | None:
        """The last value of a measure; None where it was not logged."""
        series = self.series.get(measure)
        return None if series is None else float(series.values[-1])


def strength_in_words(name: str | None, value: float | None) -> str:
    """The strength of an objective for a reader; empty where there is none.

    Example:
        >>> strength_in_words("lambda_", 0.10)
        'lambda 0.1'
    """
    return "" if name is None or value is None else f"{name.rstrip('_')} {value:g}"


def read_runs(places: Sequence[str]) -> list[Run]:
    """The runs of folders, of folders of runs (such as that of a sweep) and of patterns, each once.

    Args:
        places: paths and patterns.

    Raises:
        ValueError: one of them holds no run.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        found = list(_folders(place))
        if not found:
            raise ValueError(f"{place}: no run is there; accepted: the folder of a fit, which holds {RECORD_FILE}")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    names = _ends({folder: folder.resolve().parts for folder in folders.values()})
    return [Run(folder, names[folder], _record(folder)) for folder in folders.values()]


def _folders(place: str) -> Iterator[Path]:
    path = Path(place).expanduser()
    for folder in [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True))):
        if (folder / RECORD_FILE).is_file():
            yield folder
        elif folder.is_dir():
            yield from sorted(record.parent for record in folder.rglob(RECORD_FILE))


def _record(folder: Path) -> RunRecord:
    record = read_record(folder / RECORD_FILE)
    assert record is not None
    return record


def model_names(models: Iterable[str]) -> dict[str, str]:
    """Short names of models: the ends of their paths that tell them from each other, without the folder that every run
    keeps its model in.

    Args:
        models: as they were asked for.

    Example:
        >>> model_names(["facebook/opt-350m", "/runs/sft/model", "HuggingFaceTB/SmolLM2-135M"])
        {'facebook/opt-350m': 'opt-350m', '/runs/sft/model': 'sft', 'HuggingFaceTB/SmolLM2-135M': 'SmolLM2-135M'}
    """
    parts = {model: Path(model).parts for model in models}
    return _ends(
        {model: each[:-1] if len(each) > 1 and each[-1] == MODEL_FOLDER else each for model, each in parts.items()}
    )


def _ends(parts: Mapping[Any, Sequence[str]]) -> dict[Any, str]:
    """The ends of paths that tell them from each other; the whole of them where none does."""
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {key: "/".join(each[-count:]) for key, each in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {key: str(key) for key in parts}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, prefix if key == "init_args" else f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}".removesuffix(".class_path"), value
