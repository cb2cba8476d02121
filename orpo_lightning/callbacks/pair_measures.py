"""What each validation pair measures, beside the measures of a run."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from orpo_lightning.modules.validation_interval import is_complete
from orpo_lightning.ranks import from_all_ranks, together
from orpo_lightning.records import PairScores, TokenizedRow
from orpo_lightning.run_folder import PAIRS_FILE
from orpo_lightning.summary.pairs import PairMeasures, cut_pairs, write_pairs
from orpo_lightning.trainer_parts import data_of, val_names_of


@dataclass(frozen=True)
class _Known:
    """What the data tells of a row: its place, and a hash of its tokens."""

    place: int
    content: str


_UNKNOWN = _Known(0, "")


class PairMeasuresFile(Callback):
    """Writes the log-probabilities of each validation pair to ``val_pairs.csv``, at each validation of a fit and before
    its first step. Without pairs there is no file.
    """

    def __init__(self) -> None:
        self._scores: list[tuple[int, PairScores]] = []
        self._known: dict[str, dict[str, _Known]] = {}
        self._has_baseline = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the run before this one."""
        self._known, self._has_baseline = {}, False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validation before this one."""
        self._scores = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the pairs of a micro-batch."""
        scores = outputs.get("pairs") if isinstance(outputs, dict) else None
        if isinstance(scores, PairScores):
            self._scores.append((dataloader_idx, scores))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the pairs of all ranks, in the order of the data."""
        if not is_complete(trainer):
            return
        step = trainer.global_step
        own = [pair for number, scores in self._scores for pair in _rows(trainer, step, number, scores)]
        pairs = [pair for of_rank in from_all_ranks(own) for pair in of_rank]
        self._scores = []
        if pairs:
            self._write(trainer, step, pairs)

    @together
    @rank_zero_only
    def _write(self, trainer: Trainer, step: int, pairs: list[PairMeasures]) -> None:
        self._has_baseline = True
        write_pairs(Path(trainer.default_root_dir) / PAIRS_FILE, step, self._in_order(trainer, pairs))

    @together
    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validations that a run which goes on does again, and those of another run."""
        starts_anew = trainer.global_step == 0 and not self._has_baseline
        cut_pairs(Path(trainer.default_root_dir) / PAIRS_FILE, -1 if starts_anew else trainer.global_step)

    def _in_order(self, trainer: Trainer, pairs: list[PairMeasures]) -> list[PairMeasures]:
        names = val_names_of(trainer)
        rows: Any = getattr(data_of(trainer), "rows", {})
        for name in {pair.set for pair in pairs} - self._known.keys():
            self._known[name] = _known(rows.get(f"validation/{name}" if name else "validation", ()))
        found = [(pair, self._known[pair.set].get(pair.row_id, _UNKNOWN)) for pair in pairs]
        found.sort(key=lambda each: (names.index(each[0].set), each[1].place))
        return [replace(pair, content=known.content) for pair, known in found]


def _known(rows: Sequence[TokenizedRow]) -> dict[str, _Known]:
    known: dict[str, _Known] = {}
    for place, row in enumerate(rows):
        if row.row_id not in known:
            known[row.row_id] = _Known(place, _content(row))
    return known


def _content(row: TokenizedRow) -> str:
    """What is the same for the same texts under the same tokenizer, wherever the file of the row is kept."""
    tokens = hashlib.blake2b(digest_size=8)
    for ids in (row.prompt, *(response.ids for response in row.responses)):
        tokens.update(array("q", (len(ids), *ids)).tobytes())
    return tokens.hexdigest()


def _rows(trainer: Trainer, step: int, number: int, scores: PairScores) -> list[PairMeasures]:
    parts = [
        scores.chosen / scores.chosen_tokens,
        scores.rejected / scores.rejected_tokens,
        scores.chosen,
        scores.rejected,
        scores.chosen_tokens,
        scores.rejected_tokens,
        scores.weight,
    ]
    columns = zip(scores.row_ids, *(part.tolist() for part in parts), strict=True)
    pairs = (PairMeasures(step, val_names_of(trainer)[number], *values) for values in columns)
    return [pair for pair in pairs if pair.weight]
