"""The batch plan: which rows make up which micro-batch of which step, on which rank.

The global batch is the scientific quantity. How it is split over ranks and accumulation changes nothing but
rounding: each micro-batch carries the counts of its global batch, by which its part of the loss is normalised.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from orpo_lightning.data.segments import Segments
from orpo_lightning.packing import PackedBatch, pack
from orpo_lightning.records import Role, StepInfo, TokenizedRow


@dataclass(frozen=True)
class Slot:
    """One micro-batch of the plan.

    Args:
        rows: indices of its rows.
        step: the global batch it is a part of.
        filler: whether it holds a repeated row of weight 0, because there were fewer rows than micro-batches.
    """

    rows: tuple[int, ...]
    step: StepInfo
    filler: bool = False


class BatchPlan(Dataset[PackedBatch]):
    """All micro-batches of one rank, a pure function of (seed, epoch, step).

    Item ``epoch * len(plan) + i`` is the i-th micro-batch of that epoch.

    Args:
        rows: the rows of the split.
        global_batch_size: rows per optimizer step, over all ranks and accumulation steps.
        accumulate: micro-batches per rank and step.
        world_size: number of ranks.
        rank: this rank.
        shuffle: whether each epoch has an order of its own.
        seed: of the order and of the micro-batches' randomness.
        roles: the responses of these roles are part of the stream.
        max_tokens: largest number of tokens of a micro-batch; None is no limit.
    """

    def __init__(
        self,
        rows: Sequence[TokenizedRow],
        global_batch_size: int,
        accumulate: int = 1,
        world_size: int = 1,
        rank: int = 0,
        *,
        shuffle: bool = True,
        seed: int = 0,
        roles: Collection[Role] = tuple(Role),
        max_tokens: int | None = None,
    ) -> None:
        if global_batch_size < 1:
            raise ValueError(f"data.global_batch_size = {global_batch_size}; accepted: 1 or more")
        if not rows:
            raise ValueError("no rows to make batches of")
        self.rows = rows
        self.global_batch_size = global_batch_size
        self.accumulate = accumulate
        self.world_size = world_size
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.roles = roles
        self.max_tokens = max_tokens
        self.steps = -(-len(rows) // global_batch_size)
        self._order_of: tuple[int, list[int]] | None = None
        self._last: tuple[tuple[int, int], list[Slot]] | None = None
        sizes = Segments.of(rows)
        self._lengths: list[int] = sizes.stream_tokens(roles).tolist()
        self._has_pairs = sizes.first_row_with(Role.REJECTED) is not None

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __getitem__(self, index: int) -> PackedBatch:
        epoch, index = divmod(index, len(self))
        step, micro_batch = divmod(index, self.accumulate)
        return self.pack(self.slots(epoch, step)[micro_batch * self.world_size + self.rank])

    def pack(self, slot: Slot) -> PackedBatch:
        """The micro-batch of a slot."""
        rows = [self.rows[i] for i in slot.rows]
        weights = [0.0] * len(rows) if slot.filler else None
        return pack(rows, slot.step, weights, roles=self.roles)

    def slots(self, epoch: int, step: int) -> list[Slot]:
        """The micro-batches of a step: number ``i`` is the ``i // world_size``-th of rank ``i % world_size``."""
        if self._last is not None and self._last[0] == (epoch, step):
            return self._last[1]
        start = step * self.global_batch_size
        members = self._order(epoch)[start : start + self.global_batch_size]
        bins = _balance(members, self._lengths, self.accumulate * self.world_size)
        shortest = min(members, key=lambda i: (self._lengths[i], i))
        info = step_info((self.rows[i] for i in members), micro_batches=len(bins))
        slots = [
            Slot(
                rows=tuple(rows) or (shortest,),
                step=replace(
                    info,
                    is_last=slot // self.world_size == self.accumulate - 1,
                    seed=_mix(self.seed, epoch, step, slot),
                    split_has_pairs=self._has_pairs,
                ),
                filler=not rows,
            )
            for slot, rows in enumerate(bins)
        ]
        self._last = ((epoch, step), slots)
        return slots

    def largest(self, epoch: int, steps: int | None = None) -> tuple[int, Slot]:
        """The micro-batch of an epoch with the most tokens, of all ranks, with how many it has.

        Args:
            epoch: the epoch.
            steps: only in its first steps; None is all of them.
        """
        slots = (slot for step in range(self.steps if steps is None else steps) for slot in self.slots(epoch, step))
        return max(((self._tokens(slot), slot) for slot in slots), key=lambda each: each[0])

    def longest_row(self, slot: Slot) -> tuple[int, str]:
        """Tokens and id of the longest row of a micro-batch."""
        longest = max(slot.rows, key=self._lengths.__getitem__)
        return self._lengths[longest], self.rows[longest].row_id

    def _tokens(self, slot: Slot) -> int:
        return sum(self._lengths[i] for i in slot.rows)

    def check_tokens(self, epoch: int, steps: int | None = None) -> None:
        """Refuse an epoch that has a micro-batch of more than `max_tokens` tokens in its first `steps` steps.

        Raises:
            ValueError: names the micro-batch's size, its longest row and the settings to change.
        """
        if self.max_tokens is None:
            return
        tokens, slot = self.largest(epoch, steps)
        if tokens > self.max_tokens:
            longest, row_id = self.longest_row(slot)
            raise ValueError(
                f"a micro-batch of {len(slot.rows)} rows has {tokens:,} tokens, more than "
                f"data.max_tokens_per_batch = {self.max_tokens:,}; its longest row, {row_id}, has {longest:,}. Raise "
                "trainer.accumulate_grad_batches, which makes micro-batches smaller, or lower data.max_length."
            )

    def _order(self, epoch: int) -> list[int]:
        if self._order_of is None or self._order_of[0] != epoch:
            order = list(range(len(self.rows)))
            if self.shuffle:
                generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
                order = torch.randperm(len(self.rows), generator=generator).tolist()
            self._order_of = (epoch, order)
        return self._order_of[1]


class PlanSampler(DistributedSampler[int]):
    """Walks through the plan of one rank, epoch by epoch.

    It is a DistributedSampler because it does what one does, and Lightning leaves such a sampler alone.

    Args:
        plan: the plan.
        epoch: the epoch to start in.
        first_step: the step to start at, in that epoch only: where a resumed run goes on.
    """

    def __init__(self, plan: BatchPlan, epoch: int = 0, first_step: int = 0) -> None:
        super().__init__(plan, num_replicas=plan.world_size, rank=plan.rank, shuffle=plan.shuffle, seed=plan.seed)
        self.plan = plan
        self.epoch = epoch
        self._start = (epoch, first_step)

    def __len__(self) -> int:
        # the whole epoch, also where a part of it is left out
        return len(self.plan)

    def __iter__(self) -> Iterator[int]:
        first_step = self._start[1] if self.epoch == self._start[0] else 0
        offset = self.epoch * len(self.plan)
        return iter(range(offset + first_step * self.plan.accumulate, offset + len(self.plan)))


def step_info(rows: Iterable[TokenizedRow], micro_batches: int = 1) -> StepInfo:
    """The counts of a global batch, by which its micro-batches are normalised.

    Rows without a chosen response count as having no tokens.
    """
    # a global batch may be all of a validation set: its rows are not held
    counts = [(row.weight, _chosen_tokens(row), len(row.prompt) - 1, _judged_responses(row)) for row in rows]
    weight = sum(weight for weight, *_ in counts)
    response = sum(weight * chosen for weight, chosen, *_ in counts)
    full = response + sum(weight * prompt for weight, _, prompt, _ in counts)
    judged = sum(weight * responses for weight, *_, responses in counts)
    # a batch whose rows all have weight 0 has loss 0, not 0 / 0
    total = weight or 1.0
    return StepInfo(
        weight=total,
        tokens_per_pair=response / total or 1.0,
        full_tokens_per_pair=full / total or 1.0,
        micro_batches=micro_batches,
        response_weight=judged or 1.0,
    )


def _chosen_tokens(row: TokenizedRow) -> int:
    return sum(len(response.ids) for response in row.responses if response.role is Role.CHOSEN)


def _judged_responses(row: TokenizedRow) -> int:
    return sum(response.role is not Role.MISMATCHED for response in row.responses)


def _balance(members: Sequence[int], lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Longest first, each row into the bin with the fewest tokens; every bin gets a row as long as there are enough."""
    filled: list[list[int]] = [[] for _ in range(bins)]
    loads = [(0, b) for b in range(bins)]  # a heap: the emptiest first
    for i in sorted(members, key=lambda i: (-lengths[i], i)):
        load, emptiest = loads[0]
        filled[emptiest].append(i)
        heapq.heapreplace(loads, (load + lengths[i], emptiest))
    return filled


def _mix(*numbers: int) -> int:
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes 63 bits
