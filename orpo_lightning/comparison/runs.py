"""The results of runs, from the files in their folders."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
        """Every setting by its key, as it is typed; none where no configuration was kept."""
        config = config_of(self.folder)
        if config is None:
            _check_configs(self.folder)
        return dict(_leaves(yaml.safe_load(config or "{}")))

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
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read as the data report of a run ({error}); accepted: one that a fit wrote"
            ) from error

    def read(self) -> None:
        """Read all files now.

        Raises:
            ValueError: one of them is of another kind, or is not whole.
        """
        _ = (self.settings, self.series, self.pairs, self.answers, self.data_report)

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
    return "" if name is None or value is None else f"{name.rstrip('_')} {value:.4g}"


def read_runs(places: Sequence[str], leave_out: Callable[[str], object] | None = None) -> list[Run]:
    """The runs of folders, of folders of runs (such as that of a sweep) and of patterns, each once.

    Args:
        places: paths and patterns.
        leave_out: is told, in a sentence, of each run that cannot be read, and is left out for that; not of one whose
            own folder was given. None leaves none out.

    Raises:
        ValueError: one of the places holds no run, or none that can be read, or a run is not to be left out.
    """
    found: dict[Path, _Found] = {}
    for place in places:
        here = list(_folders(place))
        if not here:
            there = "no run is in it" if Path(place).expanduser().exists() else "there is no such place"
            raise ValueError(
                f"{place}: {there}; accepted: the folder of a fit, which holds {RECORD_FILE}, a folder of such "
                "folders, or a pattern such as 'runs/*'"
            )
        for each in here:
            before = found.setdefault(each.folder.resolve(), each)
            found[each.folder.resolve()] = replace(before, is_named=before.is_named or each.is_named)
    names = _ends({path: path.parts for path in found})
    runs, errors = [], []
    for path, each in found.items():
        try:
            run = Run(each.folder, names[path], _record(each.folder))
            run.read()
            runs.append(run)
        except ValueError as error:
            if each.is_named or leave_out is None:
                raise ValueError(f"{error}; or leave {each.folder} out") from error
            errors.append(f"{names[path]} is left out: {error}.")
    if errors and not runs:
        raise ValueError(f"no run can be read; {errors[0]}")
    if leave_out is not None:
        for sentence in errors:
            leave_out(sentence)
    return runs


@dataclass(frozen=True)
class _Found:
    """A folder of a run, and whether it was given itself."""

    folder: Path
    is_named: bool


def _folders(place: str) -> Iterator[_Found]:
    path = Path(place).expanduser()
    is_there = path.exists()
    for folder in [path] if is_there else map(Path, sorted(glob.glob(str(path), recursive=True))):
        if (folder / RECORD_FILE).is_file():
            yield _Found(folder, is_there)
        elif folder.is_dir():
            yield from (_Found(record.parent, False) for record in sorted(folder.rglob(RECORD_FILE)))


def _check_configs(folder: Path) -> None:
    """Insist that no configuration is broken; one that is there and of no run is none of ours."""
    for path in sorted(folder.glob("config*.yaml")):
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            what = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be read as YAML ({what}); accepted: the file that a fit wrote") from error


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
