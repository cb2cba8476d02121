"""What the steps of a run need on each device, before its model is loaded, and which settings would lower that."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from orpo_lightning.memory import Copies, Footprint, Need, Shares, most, need
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.models.building import refuse_four_bits
from orpo_lightning.models.footprint import StepOfModel, footprint_of
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig, reference_policy
from orpo_lightning.models.logp_model import Layout
from orpo_lightning.models.reference import reference_mode
from orpo_lightning.modules.optimization import OptimizerConfig, build_optimizer
from orpo_lightning.packing import PackedBatch, pack, unpack
from orpo_lightning.records import HALF_PRECISION

_DTYPES: dict[str, tuple[torch.dtype | None, torch.dtype | None]] = {
    "32-true": (None, None),
    "64-true": (torch.float64, None),
    "bf16-true": (torch.bfloat16, None),
    "16-true": (torch.float16, None),
    "bf16-mixed": (None, torch.bfloat16),
    "16-mixed": (None, torch.float16),
}
"""By precision, the dtype that weights are brought to, and that of products where it is another."""
_OTHER_NAMES = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_SAME = "the same numbers"
_ADAPTER = LoraConfig(r=16)
_ALONE = Copies()


def larger_half(batch: PackedBatch) -> PackedBatch:
    """The longer one of two micro-batches that a plan would make of one."""
    rows = unpack(batch)
    halves: list[tuple[int, int, list[int]]] = [(0, 0, []), (0, 1, [])]
    for i in sorted(range(len(rows)), key=lambda i: -rows[i].num_tokens):
        tokens, number, members = halves[0]
        heapq.heapreplace(halves, (tokens + rows[i].num_tokens, number, [*members, i]))
    return pack([rows[i] for i in sorted(max(halves)[-1])], batch.step)


@dataclass(frozen=True)
class Setup:
    """What the memory of a run depends on, its micro-batches excepted.

    Args:
        policy: the model that is trained.
        reference: that of an objective that needs one; None where it needs none.
        optimizer: the optimizer.
        global_batch_size: rows of a step.
        layout: of the micro-batches.
        prompt_logps: whether prompts are scored too.
        splits: whether a global batch may be split into more micro-batches.
        precision: as ``trainer.precision``.
        device_type: of the devices.
        sharing: how its processes, one on each device, take a step together.
        nodes: machines that these are on.
        accumulate: micro-batches of a step in each process.
        average_often: what is typed to have gradients averaged after each micro-batch; None where nothing does that.
        halved: the longest micro-batch where a step is split into twice as many, of that which it is now.
    """

    policy: PolicyConfig
    reference: ReferenceConfig | None
    optimizer: OptimizerConfig
    global_batch_size: int
    layout: Layout = "auto"
    prompt_logps: bool = True
    splits: bool = True
    precision: str = "32-true"
    device_type: str = "cpu"
    sharing: Copies | Shares = _ALONE
    nodes: int = 1
    accumulate: int = 1
    average_often: str | None = None
    halved: Callable[[PackedBatch], PackedBatch] = field(default=larger_half, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", _OTHER_NAMES.get(self.precision, self.precision))

    def check(self) -> None:
        """Insist that the need of a step can be told.

        Raises:
            ValueError: the precision is none of those that are known, or weights in 4 bits are to be shared out.
        """
        if self.precision not in _DTYPES:
            raise ValueError(
                f"trainer.precision = {self.precision!r} cannot be estimated; accepted: {', '.join(_DTYPES)}"
            )
        if isinstance(self.sharing, Shares):
            refuse_four_bits(self.policy)

    @property
    def second_model(self) -> PolicyConfig | None:
        """The model that a step runs beside the policy; None where there is none."""
        if self.reference is None or reference_mode(self.reference, self.policy) != "copy":
            return None
        return reference_policy(self.reference, self.policy)

    @property
    def micro_batches(self) -> int:
        """Of a step, over all processes."""
        return self.sharing.processes * self.accumulate

    def step(self) -> StepOfModel:
        """The training step.

        Raises:
            As :meth:`check`.
        """
        self.check()
        dtype, products = _DTYPES[self.precision]
        is_shared_out = isinstance(self.sharing, Shares)
        gathers = isinstance(self.sharing, Shares) and self.sharing.gathers_as_computed
        # as a module decides it, of weights that are there
        kept = dtype or getattr(torch, self.policy.dtype)
        fused = (
            not gathers and self.precision != "16-mixed" and (self.device_type != "cpu" or kept not in HALF_PRECISION)
        )
        return StepOfModel(
            policy=self.policy,
            optimizer=lambda weights: build_optimizer(self.optimizer, weights, fused=fused),
            reference=self.second_model,
            adapter_off=self.reference is not None and reference_mode(self.reference, self.policy) == "adapter",
            layout=self.layout,
            prompt_logps=self.prompt_logps,
            device_type=self.device_type,
            dtype=dtype,
            autocast=products,
            gathered=torch.bfloat16 if gathers and products is torch.bfloat16 else None,
            reduced=torch.float32 if is_shared_out and "16" in self.precision else None,
            adds_up=self.accumulate > 1,
        )


def sharing_of(strategy: Any, processes: int) -> Copies | Shares:
    """How the processes of a strategy take a step together."""
    shares: Shares | None = getattr(strategy, "shares", None)
    return Copies(processes) if shares is None else replace(shares, processes=processes)


@dataclass(frozen=True)
class Estimate:
    """What a step needs on each device.

    Args:
        setup: the run.
        batch: its longest micro-batch.
        footprint: what the step holds in a process that has all of the weights.
    """

    setup: Setup
    batch: PackedBatch
    footprint: Footprint

    @classmethod
    def of(cls, setup: Setup, batch: PackedBatch) -> Estimate:
        """The estimate for a micro-batch.

        Raises:
            As :func:`~orpo_lightning.models.footprint.footprint_of`.
        """
        return cls(setup, batch, footprint_of(setup.step(), batch))

    @property
    def need(self) -> Need:
        """What a device holds where that is most."""
        return need(self.footprint, self.setup.sharing)

    @property
    def most(self) -> dict[str, int]:
        """The most of each component, bytes."""
        return most(self.footprint, self.setup.sharing)


@dataclass(frozen=True)
class Remedy:
    """Another setting, with which a step would need less.

    Args:
        setting: as it is typed.
        effect: what else changes.
        estimate: what it would need.
    """

    setting: str
    effect: str
    estimate: Estimate


@dataclass(frozen=True)
class _Change:
    """A change of a setting.

    Args:
        setting: as it is typed.
        effect: what else changes.
        setup: the run as it then is.
        batch: its longest micro-batch.
    """

    setting: str
    effect: str
    setup: Setup
    batch: PackedBatch

    def remedy(self) -> Remedy:
        return Remedy(self.setting, self.effect, Estimate.of(self.setup, self.batch))


_Changing = Callable[[Setup, PackedBatch], _Change | None]


def remedies(estimate: Estimate) -> Iterator[Remedy]:
    """The settings that would lower what a step needs, one at a time; those first that leave its numbers alone."""
    for change in _CHANGES:
        changed = change(estimate.setup, estimate.batch)
        remedy = None if changed is None else changed.remedy()
        if remedy is not None and remedy.estimate.need.total < estimate.need.total:
            yield remedy


def untried(setup: Setup, batch: PackedBatch) -> Iterator[str]:
    """The settings, as typed, that lower what most steps need, where it cannot be told by how much."""
    changes = (change(setup, batch) for change in _CHANGES)
    return (change.setting for change in changes if change is not None)


def that_fit(estimate: Estimate, capacity: int) -> Iterator[Remedy]:
    """The settings with which a step would fit: each alone where one is enough, and else several together.

    Args:
        estimate: what it needs as it is.
        capacity: of a device, bytes.
    """
    words: list[str] = []
    enough = False
    for change in _CHANGES:
        alone = _until_it_fits(change, estimate, capacity)
        if alone is not None and alone.estimate.need.total <= capacity:
            enough = True
            yield alone
    together, effect = estimate, _SAME
    for change in () if enough else _CHANGES:
        further = _until_it_fits(change, together, capacity)
        if further is not None and further.estimate.need.total < together.need.total:
            words.append(further.setting)
            together, effect = further.estimate, effect if further.effect == _SAME else further.effect
        if together.need.total <= capacity:
            yield Remedy(" ".join(words), effect, together)
            return


def _until_it_fits(change: _Changing, estimate: Estimate, capacity: int) -> Remedy | None:
    """A change, made again as long as there is more of it and it is not enough."""
    found: Remedy | None = None
    while True:
        before = estimate if found is None else found.estimate
        changed = change(before.setup, before.batch)
        if changed is None or (found is not None and before.need.total <= capacity):
            return found
        found = changed.remedy()


def _can_be_split(setup: Setup, batch: PackedBatch, parts: int) -> bool:
    """Whether a micro-batch has rows for several, and a step for so many."""
    return setup.splits and len(batch) > 1 and parts <= setup.global_batch_size


def _accumulate(setup: Setup, batch: PackedBatch) -> _Change | None:
    more = min(2 * setup.accumulate, setup.global_batch_size // setup.sharing.processes)
    if more <= setup.accumulate or not _can_be_split(setup, batch, setup.sharing.processes * more):
        return None
    split = replace(setup, accumulate=more)
    return _Change(f"--trainer.accumulate_grad_batches {more}", _SAME, split, setup.halved(batch))


def _more_machines(setup: Setup, batch: PackedBatch) -> _Change | None:
    if not isinstance(setup.sharing, Shares) or not _can_be_split(setup, batch, 2 * setup.micro_batches):
        return None
    sharing = replace(setup.sharing, processes=2 * setup.sharing.processes)
    more = replace(setup, sharing=sharing, nodes=2 * setup.nodes)
    effect = f"{_SAME}, on {more.nodes} machines: {sharing.processes} devices in place of {setup.sharing.processes}"
    return _Change(f"--trainer.num_nodes {more.nodes}", effect, more, setup.halved(batch))


def _checkpointing(setup: Setup, batch: PackedBatch) -> _Change | None:
    if setup.policy.gradient_checkpointing:
        return None
    policy = replace(setup.policy, gradient_checkpointing=True, compile_layers=False)
    words = "--model.policy.gradient_checkpointing true"
    words += " --model.policy.compile_layers false" if setup.policy.compile_layers else ""
    return _Change(words, f"{_SAME}, a third more work", replace(setup, policy=policy), batch)


def _cached_reference(setup: Setup, batch: PackedBatch) -> _Change | None:
    if setup.reference is None or setup.second_model is None:
        return None
    cached = replace(setup, reference=replace(setup.reference, mode="cached"))
    return _Change("--model.reference.mode cached", _SAME, cached, batch)


def _average_often(setup: Setup, batch: PackedBatch) -> _Change | None:
    sharing, words = setup.sharing, setup.average_often
    if not isinstance(sharing, Shares) or sharing.each_micro_batch or words is None or setup.accumulate == 1:
        return None
    often = replace(setup, sharing=replace(sharing, each_micro_batch=True))
    return _Change(words, f"{_SAME}, more to send", often, batch)


def _share_out(setup: Setup, batch: PackedBatch) -> _Change | None:
    processes = setup.sharing.processes
    if isinstance(setup.sharing, Shares) or processes == 1 or setup.policy.load_in_4bit:
        return None
    shared = replace(setup, sharing=Shares(processes, gathers_as_computed=True))
    return _Change("--trainer.strategy fsdp2", _SAME, shared, batch)


def _half_products(setup: Setup, batch: PackedBatch) -> _Change | None:
    if setup.precision != "32-true":
        return None
    half = replace(setup, precision="bf16-mixed")
    return _Change("--trainer.precision bf16-mixed", "products are rounded to bf16", half, batch)


def _adapter(setup: Setup, batch: PackedBatch) -> _Change | None:
    if setup.policy.lora.is_used:
        return None
    policy = replace(setup.policy, lora=_ADAPTER)
    setting = f"--model.policy.lora.r {_ADAPTER.r}"
    return _Change(setting, "an adapter is trained", replace(setup, policy=policy), batch)


def _half_weights(setup: Setup, batch: PackedBatch) -> _Change | None:
    dtype, _ = _DTYPES.get(setup.precision, (None, None))
    if not setup.policy.lora.is_used or dtype is not None or setup.policy.dtype in ("bfloat16", "float16"):
        return None
    policy = replace(setup.policy, dtype="bfloat16")
    effect = "frozen weights are rounded to bf16"
    return _Change("--model.policy.dtype bfloat16", effect, replace(setup, policy=policy), batch)


_CHANGES: tuple[_Changing, ...] = (
    *(_accumulate, _checkpointing, _cached_reference, _average_often, _share_out, _more_machines),
    *(_half_products, _adapter, _half_weights),
)
