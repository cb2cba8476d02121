"""The data module: pairs from files in, the planned micro-batches of this rank out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from orpo_lightning.data.batching import BatchPlan, PlanSampler
from orpo_lightning.data.preparation import SplitReport, prepare_split
from orpo_lightning.data.sources import SAMPLE
from orpo_lightning.packing import PackedBatch
from orpo_lightning.records import TokenizedRow


class PreferenceDataModule(LightningDataModule):
    """Preference pairs from files, in micro-batches that add up to global batches.

    Args:
        train: training data: the path of a json, jsonl (also gzipped) or parquet file, or ``sample`` (the pairs
            that come with the package).
        val: validation data, likewise; None for none.
        tokenizer: whose tokenizer to use: a short name, folder or hub id. On the command line it is the policy's.
        global_batch_size: pairs per optimizer step, over all ranks and accumulation steps.
        max_length: longest conversation, prompt and response together, tokens; longer rows are dropped.
        max_prompt_length: longest prompt, tokens; longer rows are dropped.
        max_tokens_per_batch: refuse, before training, a micro-batch of more tokens than this; None is no limit.
        shuffle: whether each epoch has an order of its own.
        seed: of the order and of dropout; None is that of `seed_everything`.
        tokenizer_revision: branch, tag or commit of a tokenizer on the hub. On the command line it is the policy's.
        num_workers: processes that pack batches ahead; 0 packs in the training process.

    Example:
        >>> data = PreferenceDataModule(train="sample", tokenizer="tiny", max_length=256, max_prompt_length=128)
        >>> data.setup("fit")
        >>> print(data.reports["train"])
        train: sample (text): 64 rows read, 64 kept, dropped: none
    """

    def __init__(
        self,
        train: str = SAMPLE,
        val: str | None = SAMPLE,
        tokenizer: str = "tiny",
        global_batch_size: int = 8,
        max_length: int = 1024,
        max_prompt_length: int = 512,
        max_tokens_per_batch: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        tokenizer_revision: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("global_batch_size", global_batch_size, 1),
            ("max_length", max_length, 8),
            ("max_prompt_length", max_prompt_length, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ValueError(f"data.{name} = {value!r} is out of range; accepted: {least} or more")
        if max_prompt_length >= max_length:
            raise ValueError(
                f"data.max_prompt_length = {max_prompt_length} leaves no room for a response in "
                f"data.max_length = {max_length}; accepted: 1 to {max_length - 1}"
            )
        self.train = train
        self.val = val
        self.tokenizer = tokenizer
        self.global_batch_size = global_batch_size
        self.max_length = max_length
        self.max_prompt_length = max_prompt_length
        self.max_tokens_per_batch = max_tokens_per_batch
        self.shuffle = shuffle
        self.seed = seed
        self.tokenizer_revision = tokenizer_revision
        self.num_workers = num_workers
        self.reports: dict[str, SplitReport] = {}
        self._rows: dict[str, list[TokenizedRow]] = {}

    def setup(self, stage: str) -> None:
        """Read, filter and tokenize the splits that the stage needs."""
        if stage == "fit":
            self._prepare("train", self.train)
        if self.val is not None:
            self._prepare("validation", self.val)

    def _prepare(self, split: str, source: str) -> None:
        if split in self._rows:
            return
        self._rows[split], self.reports[split] = prepare_split(
            split, source, self.tokenizer, self.max_length, self.max_prompt_length, self.tokenizer_revision
        )
        rank_zero_info(str(self.reports[split]))

    @property
    def rows(self) -> Mapping[str, Sequence[TokenizedRow]]:
        """The rows of each split that was set up."""
        return self._rows

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
        return max(
            len(row.prompt) + max(len(response.ids) for response in row.responses)
            for rows in self._rows.values()
            for row in rows
        )

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """The training micro-batches of this rank, from where the run stands."""
        trainer = self._attached_trainer
        overfit = trainer.overfit_batches  # type: ignore[attr-defined]  # one of Lightning's connectors sets it
        if overfit and (self.shuffle or trainer.world_size > 1):
            raise ValueError(
                "trainer.overfit_batches trains on the same batches in every epoch: set data.shuffle = false and use "
                "one process"
            )
        plan = BatchPlan(
            self._rows["train"],
            self.global_batch_size,
            trainer.accumulate_grad_batches,
            trainer.world_size,
            trainer.global_rank,
            shuffle=self.shuffle,
            # Lightning's seed_everything leaves its seed in the environment, for the other ranks too
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed,
            rejected=getattr(trainer.lightning_module, "needs_rejected", True),
            max_tokens=self.max_tokens_per_batch,
        )
        epoch, first_step = divmod(trainer.global_step, self.steps_per_epoch)
        if self.max_tokens_per_batch is not None:
            for each in range(epoch, -(-self.total_steps // self.steps_per_epoch)):
                plan.check_tokens(each, self.steps_per_epoch)
        return self._loader(PlanSampler(plan, epoch, first_step))

    def val_dataloader(self) -> DataLoader[PackedBatch] | list[object]:
        """The validation micro-batches of this rank: the whole split as one global batch, in the order of its rows."""
        if self.val is None:
            return []
        trainer = self._attached_trainer
        pairs = -(-self.global_batch_size // (trainer.accumulate_grad_batches * trainer.world_size))
        limit = trainer.limit_val_batches
        if isinstance(limit, float) and 0 < limit < 1:
            raise ValueError(
                f"trainer.limit_val_batches = {limit} would measure rows that depend on how validation is split; "
                "accepted: 1.0 (all) or a number of batches, which takes the first rows"
            )
        # the counts that normalise the loss are those of the rows that are measured
        rows = self._rows["validation"][: limit * pairs * trainer.world_size if isinstance(limit, int) else None]
        if not rows:
            return []
        plan = BatchPlan(
            rows,
            global_batch_size=len(rows),
            accumulate=-(-len(rows) // (pairs * trainer.world_size)),
            world_size=trainer.world_size,
            rank=trainer.global_rank,
            shuffle=False,
            max_tokens=self.max_tokens_per_batch,
        )
        plan.check_tokens(epoch=0)
        return self._loader(PlanSampler(plan))

    def test_dataloader(self) -> DataLoader[PackedBatch] | list[object]:
        """The validation micro-batches."""
        return self.val_dataloader()

    def _loader(self, sampler: PlanSampler) -> DataLoader[PackedBatch]:
        return DataLoader(
            sampler.plan,
            sampler=sampler,
            batch_size=None,  # an item of the plan is a batch already
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._attached_trainer.strategy.root_device.type == "cuda",
        )

    @property
    def _attached_trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module needs a Trainer: pass it to Trainer.fit, validate or test")
        return self.trainer
