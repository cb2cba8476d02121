"""The data module: rows from files in, the planned micro-batches of this rank out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch.utils.data import DataLoader

from orpo_lightning.data.advice import advice_on
from orpo_lightning.data.batching import BatchPlan, PlanSampler
from orpo_lightning.data.filters import Filter
from orpo_lightning.data.fingerprint import fingerprint_of_rows
from orpo_lightning.data.lengths import LengthLimits, Overlong
from orpo_lightning.data.mismatch import MismatchedRows, with_mismatched
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.report import SplitReport, print_reports
from orpo_lightning.data.segments import Segments
from orpo_lightning.data.sources import SAMPLE, SourceConfig
from orpo_lightning.data.splits import Mixture, load_training, load_validation
from orpo_lightning.data.timed_loader import TimedLoader
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.packing import PackedBatch
from orpo_lightning.ranks import together
from orpo_lightning.records import Role, TokenizedRow


class PreferenceDataModule(LightningDataModule):
    """Preference data from files or the hub, in micro-batches that add up to global batches.

    A source is ``sample`` (the pairs that come with the package), the path of a json, jsonl (both also gzipped) or
    parquet file, a folder of them, a hub id, a short name (``hh-rlhf``, ``hh-rlhf/harmless-base``,
    ``ultrafeedback``, ``ultrafeedback-cleaned``), or one of these as the ``path`` of a :class:`SourceConfig`.

    Args:
        train: training data: a source, or a list of sources, each with a ``weight`` that says how often an epoch goes
            over its rows.
        val: validation data: a source, or sources by name, logged under ``val/NAME/``; None for none.
        format: of the rows of all sources: text, messages, hh_rlhf, sharegpt, unpaired, or the path of a
            :class:`~orpo_lightning.Format` of your own; None is told from the rows.
        columns: our name of a column to that of the data, where they differ, in all sources.
        filters: rules that drop rows, in this order, after those for empty and identical responses: Duplicates,
            SharedPrompts, SmallMargin, or the path of a :class:`~orpo_lightning.Filter` of your own.
        limit: read this many rows of each source at most; None reads all.
        tokenizer: whose tokenizer to use: a short name, folder or hub id. On the command line it is the policy's.
        global_batch_size: rows per optimizer step, over all ranks and accumulation steps.
        max_length: longest conversation, prompt and response together, tokens.
        max_prompt_length: longest prompt, tokens; None is half of `max_length`. The same rows remain for every
            objective.
        overlong: what becomes of longer rows: drop, truncate_prompt (keep its end), truncate_response, or error.
        max_tokens_per_batch: refuse, before training, a micro-batch of more tokens than this; None is no limit.
        shuffle: whether each epoch has an order of its own.
        seed: of the order, of dropout and of the drawing of mixtures; None is that of `seed_everything`.
        tokenizer_revision: branch, tag or commit of a tokenizer on the hub. On the command line it is the policy's.
        num_workers: processes that pack batches ahead; 0 packs in the training process.

    Example:
        >>> data = PreferenceDataModule(train="sample", tokenizer="tiny", max_length=256, max_prompt_length=128)
        >>> data.setup("fit")
        >>> print(data.reports["train"])
        train: sample (text): 250 rows read, 250 kept, dropped: none
    """

    def __init__(
        self,
        # with a Path among the types the command line never opens a data file as if it were a config file; it is the
        # last, because the command line writes any value as a Path that it has not written as another type
        train: str | SourceConfig | list[str | SourceConfig | Path] | Path = SAMPLE,
        val: str | SourceConfig | dict[str, str | SourceConfig | Path | None] | Path | None = SAMPLE,
        format: str | None = None,
        columns: dict[str, str] | None = None,
        filters: list[Filter] | None = None,
        limit: int | None = None,
        tokenizer: str = "tiny",
        global_batch_size: int = 8,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        overlong: Overlong = "drop",
        max_tokens_per_batch: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        tokenizer_revision: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("global_batch_size", global_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("limit", 1 if limit is None else limit, 1),
            ("max_tokens_per_batch", 1 if max_tokens_per_batch is None else max_tokens_per_batch, 1),
            ("seed", 0 if seed is None else seed, 0),
        ):
            if value < least:
                raise ValueError(f"data.{name} = {value!r} is out of range; accepted: {least} or more")
        longest_prompt = max_length // 2 if max_prompt_length is None else max_prompt_length
        self.limits = LengthLimits(max_length, longest_prompt, overlong)
        shared = SourceConfig("", format=format, columns=columns or {})
        self.train = [_source(each, shared) for each in (train if isinstance(train, list) else [train])]
        named = val if isinstance(val, dict) else {"": val} if val is not None else {}
        empty = [name for name, each in named.items() if each is None]
        if empty:
            raise ValueError(f"data.val.{empty[0]} is empty; accepted: a source, or leave the name out")
        self.val = {name: _source(each, shared) for name, each in named.items() if each is not None}
        weighted = [source.path for source in self.val.values() if source.weight != 1]
        if weighted:
            raise ValueError(f"data.val: {weighted[0]} has a weight; validation measures every row once, leave it out")
        if not self.train:
            raise ValueError("data.train is an empty list; accepted: a source, or a list of one or more")
        self.filters = filters or []
        self.limit = limit
        self.tokenizer = tokenizer
        self.global_batch_size = global_batch_size
        self.max_tokens_per_batch = max_tokens_per_batch
        self.shuffle = shuffle
        self.seed = seed
        self.tokenizer_revision = tokenizer_revision
        self.num_workers = num_workers
        self.reports: dict[str, SplitReport] = {}
        self._rows: dict[str, Sequence[TokenizedRow]] = {}
        self._mismatched: dict[str, MismatchedRows] = {}
        self._fingerprints: dict[str, str] = {}

    @property
    def rows(self) -> Mapping[str, Sequence[TokenizedRow]]:
        """The tokenized rows by split: ``train``, and ``validation`` or ``validation/NAME``."""
        return {split: self._rows_for_module(split) for split, rows in self._rows.items() if len(rows)}

    @property
    def val_names(self) -> tuple[str, ...]:
        """Names of the validation sets, in the order of their loaders; an empty name is that of an only one."""
        return tuple(self.val)

    @together
    def setup(self, stage: str) -> None:
        """Read, filter and tokenize the splits that the stage needs; all processes of a run call this."""
        if stage == "fit" and self.trainer is not None:
            self.check_global_batch(self.trainer)
        if "train" in self._rows or (stage != "fit" and self._rows):
            return
        tokenizer = load_tokenizer(self.tokenizer, self.tokenizer_revision)
        limits = replace(self.limits, bos=tokenizer.bos_token_id)
        how = Preparation(tokenizer, limits, self.filters, self.limit)
        splits = load_validation(how, self.val)
        if stage == "fit":
            prompts = frozenset().union(*(split.prompt_keys for split in splits.values()))
            training = load_training(how, self.train, prompts, self._seed)
            trained_on = frozenset(training.prompt_keys)
            for validation in splits.values():
                validation.note_shared(trained_on)
            splits = {"train": training, **splits}
        self._rows = {name: split.rows for name, split in splits.items()}
        self._fingerprints = {}
        self.reports = {name: report for split in splits.values() for name, report in split.reports.items()}
        if self.trainer is not None:
            self._tell()
        for split in self._rows:
            self._rows_for_module(split)  # what the module cannot take is refused before it loads a model

    def check_global_batch(self, trainer: Trainer) -> None:
        """Insist that a global batch has a row for each of its micro-batches.

        Raises:
            ValueError: it has not.
        """
        ranks, accumulate = trainer.world_size, trainer.accumulate_grad_batches
        if self.global_batch_size < ranks * accumulate:
            raise ValueError(
                f"data.global_batch_size = {self.global_batch_size} is less than one row for each of {ranks} ranks x "
                f"trainer.accumulate_grad_batches = {accumulate}; accepted: {ranks * accumulate} or more"
            )

    @rank_zero_only
    def _tell(self) -> None:
        print_reports(self.reports)
        for sentence in self.advice():
            rank_zero_warn(sentence)

    def advice(self) -> Iterator[str]:
        """What the account of the data gives reason to change, in sentences."""
        for name, report in self.reports.items():
            yield from advice_on(name, report, self.limits)
        own = [source.path for source in self.train if source.path != SAMPLE]
        if own and [source.path for source in self.val.values()] == [SAMPLE]:
            yield (
                f"training data is {own[0]}, and validation data the sample of the package: set data.val, or to null "
                "for none"
            )

    @property
    def _seed(self) -> int:
        # Lightning's seed_everything leaves its seed in the environment, for the other ranks too
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def settings(self) -> dict[str, Any]:
        """What the order of the data depends on, and which data it is, for a checkpoint."""
        if not self._fingerprints:
            self._fingerprints = {split: fingerprint_of_rows(rows) for split, rows in self._rows.items()}
        validation = [found for split, found in self._fingerprints.items() if split != "train"]
        return {
            "data.train, as tokenized rows": self._fingerprints["train"],
            "data.val, as tokenized rows": ", ".join(validation),
            "data.global_batch_size": self.global_batch_size,
            "data.shuffle": self.shuffle,
            "data.seed or seed_everything": self._seed,
        }

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, `trainer.limit_train_batches` taken into account."""
        trainer = self._attached_trainer
        accumulate = trainer.accumulate_grad_batches
        batches = -(-len(self._rows["train"]) // self.global_batch_size) * accumulate
        limit = trainer.limit_train_batches
        used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if used % accumulate or not used:
            raise ValueError(
                f"trainer.limit_train_batches, overfit_batches or fast_dev_run leaves {used} micro-batches an epoch, "
                f"which is not a multiple of trainer.accumulate_grad_batches = {accumulate}: the last step would train "
                f"on a part of its global batch. Micro-batches of a whole epoch: {batches}."
            )
        return used // accumulate

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        # not trainer.estimated_stepping_batches: that makes the training batches before a resumed run knows its place
        epochs, steps = self._attached_trainer.max_epochs, self._attached_trainer.max_steps
        limits = [epochs * self.steps_per_epoch] if epochs is not None and epochs >= 0 else []
        limits += [steps] if steps >= 0 else []
        if not limits:
            raise ValueError("the learning-rate schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        return min(limits)

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation of all splits."""
        return max(int(Segments.of(rows).conversations.max()) for rows in self._rows.values() if len(rows))

    @property
    def unpaired_row(self) -> str | None:
        """Id of the first row that is not a pair, if there is one in any split."""
        found = ((rows, Segments.of(rows).first_row_with(Role.UNPAIRED)) for rows in self._rows.values())
        return next((rows[place].row_id for rows, place in found if place is not None), None)

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """The training micro-batches of this rank, from where the run stands."""
        trainer = self._attached_trainer
        overfit = trainer.overfit_batches  # type: ignore[attr-defined]  # one of Lightning's connectors sets it
        if overfit and (self.shuffle or trainer.world_size > 1):
            raise ValueError(
                "trainer.overfit_batches trains on the same batches in every epoch: set data.shuffle = false and use "
                "one process"
            )
        needs_rejected = getattr(trainer.lightning_module, "needs_rejected", True)
        plan = self.plan(
            self._rows_for_module("train"),
            trainer.accumulate_grad_batches,
            trainer.world_size,
            trainer.global_rank,
            needs_rejected=needs_rejected,
        )
        epoch, first_step = divmod(trainer.global_step, self.steps_per_epoch)
        if self.max_tokens_per_batch is not None:
            for each in range(epoch, -(-self.total_steps // self.steps_per_epoch)):
                plan.check_tokens(each, self.steps_per_epoch)
        return self._loader(PlanSampler(plan, epoch, first_step))

    def plan(
        self,
        rows: Sequence[TokenizedRow],
        accumulate: int,
        world_size: int,
        rank: int = 0,
        *,
        needs_rejected: bool = True,
    ) -> BatchPlan:
        """The plan of the training batches.

        Args:
            rows: the rows of the training split.
            accumulate: micro-batches per rank and step.
            world_size: number of ranks.
            rank: one of them.
            needs_rejected: whether the rejected responses are part of the stream.
        """
        return BatchPlan(
            rows,
            self.global_batch_size,
            accumulate,
            world_size,
            rank,
            shuffle=self.shuffle,
            seed=self._seed,
            roles=[role for role in Role if needs_rejected or role is not Role.REJECTED],
            max_tokens=self.max_tokens_per_batch,
        )

    def val_dataloader(self) -> list[DataLoader[PackedBatch]]:
        """The validation micro-batches of this rank, of each set: all of it as one global batch, in its order."""
        limit = self._attached_trainer.limit_val_batches
        if isinstance(limit, float) and 0 < limit < 1:
            raise ValueError(
                f"trainer.limit_val_batches = {limit} would measure rows that depend on how validation is split; "
                "accepted: 1.0 (all) or a number of batches, which takes the first rows"
            )
        splits = [split for split, rows in self._rows.items() if split != "train" and len(rows) and limit]
        return [self._evaluation_loader(self._rows_for_module(split), limit) for split in splits]

    def _evaluation_loader(self, rows: Sequence[TokenizedRow], limit: float) -> DataLoader[PackedBatch]:
        trainer = self._attached_trainer
        rows_each = -(-self.global_batch_size // (trainer.accumulate_grad_batches * trainer.world_size))
        # the counts that normalise the loss are those of the rows that are measured
        count = min(len(rows), limit * rows_each * trainer.world_size) if isinstance(limit, int) else len(rows)
        measured = Mixture([(rows, range(count))])
        plan = BatchPlan(
            measured,
            global_batch_size=len(measured),
            accumulate=-(-len(measured) // (rows_each * trainer.world_size)),
            world_size=trainer.world_size,
            rank=trainer.global_rank,
            shuffle=False,
            max_tokens=self.max_tokens_per_batch,
        )
        plan.check_tokens(epoch=0)
        return self._loader(PlanSampler(plan))

    def _rows_for_module(self, split: str) -> Sequence[TokenizedRow]:
        """The rows of a split; with a mismatched response each if the module needs them."""
        rows = self._rows[split]
        needs_mismatched = self.trainer and getattr(self.trainer.lightning_module, "needs_mismatched", False)
        if not needs_mismatched:
            return rows
        if split not in self._mismatched or self._mismatched[split].rows is not rows:
            self._mismatched[split] = with_mismatched(rows, split)
        return self._mismatched[split]

    def test_dataloader(self) -> list[DataLoader[PackedBatch]]:
        """The validation micro-batches."""
        return self.val_dataloader()

    def _loader(self, sampler: PlanSampler) -> DataLoader[PackedBatch]:
        if self.num_workers:
            # the rows are tokenized; the tokenizer's threads would not survive the fork, and warn of it
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return TimedLoader(
            sampler.plan,
            sampler=sampler,
            batch_size=None,  # an item of the plan is a batch already
            num_workers=self.num_workers,
            worker_init_fn=_leave_signals_to_the_run,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._attached_trainer.strategy.root_device.type == "cuda",
        )

    @property
    def _attached_trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module needs a Trainer: pass it to Trainer.fit, validate or test")
        return self.trainer


def _leave_signals_to_the_run(worker: int) -> None:
    """Let a worker go on packing when all processes of a run are asked to stop: the run finishes its step first."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _source(source: str | Path | SourceConfig, shared: SourceConfig) -> SourceConfig:
    """The source, with what all sources share where it does not say otherwise."""
    own = source if isinstance(source, SourceConfig) else SourceConfig(str(source))
    if own.path == SAMPLE:  # its columns and format are known
        return own
    return replace(own, format=own.format or shared.format, columns={**shared.columns, **own.columns})
