"""The measures of a run in one csv file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from orpo_lightning.run_folder import METRICS_FILE

_INDEX = ["step", "epoch"]


class MetricsFile(Logger):
    """Writes one row per optimizer step to ``metrics.csv``; what was logged is in the file when the call
    returns, so that a process that dies loses none of it.

    Row s holds what was measured with the weights after s steps: a validation, and the batch of the step that goes on
    from them. When a run goes on in the same folder, the rows from its first step on are replaced and those before are
    kept.

    Args:
        folder: where to write the file.

    Example:
        >>> import tempfile
        >>> file = MetricsFile(tempfile.mkdtemp())
        >>> file.log_metrics({"train/loss": 0.5}, step=0)
        >>> file.log_metrics({"val/loss": 0.25}, step=0)
        >>> print(file.path.read_text())
        step,epoch,train/loss,val/loss
        0,,0.5,0.25
        <BLANKLINE>
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS_FILE
        self._columns: list[str] | None = None
        self._row: dict[str, str] = {}
        self._row_start = 0
        self._start: tuple[int, dict[str, str]] | None = None

    @property
    def name(self) -> str:
        """Empty: the file stands in the folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the file stands in the folder itself."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    @property
    def row(self) -> dict[str, str]:
        """What has been logged for the latest step so far."""
        return dict(self._row)

    def go_on_from(self, step: int, row: Mapping[str, str]) -> None:
        """Have the next call replace what is there from a step on, and start the row of that step with these values."""
        self._start = (step, dict(row))
        self._columns = None

    def has_rows_before(self, step: int) -> bool:
        """Whether the file has the rows that come before that of a step."""
        steps = {row["step"] for row in self._read()} if self.path.exists() else set()
        return step == 0 or str(step - 1) in steps

    @rank_zero_only
    def save(self) -> None:
        """Have the file on the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step; steps do not go back."""
        if step is None:
            raise ValueError("metrics.csv has a row per step: log with a step")
        if self._columns is None:
            first, row = self._start or (step, {})
            self._columns = self._keep_rows_before(first)
            if row:
                self._write(row)
        self._write({"step": str(step), **{name: str(value) for name, value in metrics.items()}})

    def _write(self, values: Mapping[str, str]) -> None:
        """Add values to the row of their step."""
        assert self._columns is not None
        step = values["step"]
        if self._row.get("step") != step:
            self._row = {}
            self._row_start = self.path.stat().st_size
        self._row |= values
        new = sorted(set(self._row) - set(self._columns))
        if new:
            self._columns = self._columns + new
            self._rewrite(row for row in self._read() if row["step"] != step)
            self._row_start = self.path.stat().st_size
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            file.truncate(self._row_start)
            file.seek(self._row_start)
            csv.DictWriter(file, self._columns).writerow(self._row)

    def _keep_rows_before(self, step: int) -> list[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in self._read() if int(row["step"]) < step] if self._ends_whole() else []
        self._columns = list(kept[0]) if kept else list(_INDEX)
        self._rewrite(kept)
        return self._columns

    def _ends_whole(self) -> bool:
        """Whether there is a file; a row at its end that a kill cut off is taken away."""
        if not self.path.exists():
            return False
        with self.path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
        return True

    def _read(self) -> list[dict[str, str]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        assert self._columns is not None
        rows = list(rows)
        unfinished = self.path.with_suffix(".csv.part")
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)
