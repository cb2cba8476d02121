"""The verb ``estimate``: what a run needs on each device, before anything is loaded."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from rich.console import Console
from rich.table import Table

from orpo_lightning.command_line.options import import_class
from orpo_lightning.commands.parts import PartCLI
from orpo_lightning.data.batching import step_info
from orpo_lightning.data.datamodule import PreferenceDataModule
from orpo_lightning.data.mismatch import with_mismatched
from orpo_lightning.device_memory import memory_of
from orpo_lightning.memory import COMPONENTS, Shares, in_gib
from orpo_lightning.modules.estimate import Estimate, Setup, remedies, sharing_of
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.packing import PackedBatch, pack
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow

_WHAT = {
    "weights": "of the policy",
    "gradients": "of what is trained",
    "optimizer": "its state, and scratch of its step",
    "activations": "what the backward pass needs",
    "head": "logits, gradient of the embedding",
    "reference": "weights and activations",
    "exchange": "gathered from others, or sent",
}
_WHEN = {
    "forward": "in the forward pass",
    "head": "where the backward pass begins",
    "reference": "while the reference runs",
    "backward": "in the backward pass",
    "step": "while the optimizer steps",
}
_LONGEST_REASON = 160
"""Characters."""


class _EstimateCLI(PartCLI):
    parts = ("model", "data")


def main() -> None:
    """Print what the steps of a configuration need, and which settings would lower it."""
    cli = _EstimateCLI.of_verb("estimate")
    if cli is None:
        return
    module, data, trainer = cli.made["model"], cli.made["data"], cli.config["trainer"]
    for part, kind in ((module, PreferenceModule), (data, PreferenceDataModule)):
        if not isinstance(part, kind):
            raise ValueError(f"the verb estimate knows a {kind.__name__}, and this is a {type(part).__name__}")
    setup = setup_of(module, data, trainer)
    setup.check()
    setup, batch, sentences = _longest_micro_batch(module, data, trainer, setup)
    found = Estimate.of(setup, batch)
    console = Console(soft_wrap=True)
    console.print(_title(setup), highlight=False)
    console.print(_table(found))
    for sentence in (*_account(found), *sentences):
        console.print(sentence, markup=False, highlight=False)
    for i, remedy in enumerate(remedies(found)):
        if i == 0:
            console.print("It would take less with one of", highlight=False)
        size = in_gib(remedy.estimate.need.total)
        console.print(f"  {remedy.setting:<45} {size:>11}  ({remedy.effect})", markup=False, highlight=False)


def setup_of(module: PreferenceModule, data: PreferenceDataModule, trainer: Any) -> Setup:
    """What the memory of a run depends on.

    Args:
        module: the module of its configuration.
        data: its data.
        trainer: the settings of its trainer.

    Raises:
        ValueError: a setting of the trainer cannot be estimated, or the number of devices is not known here.
    """
    device_type = _device_type(trainer.get("accelerator"))
    objective, strategy = module.objective, _strategy(trainer.get("strategy"))
    nodes = trainer.get("num_nodes", 1)
    return Setup(
        policy=module.policy_config,
        reference=module.reference_config if objective.needs_reference else None,
        optimizer=module.optimizer_config,
        global_batch_size=data.global_batch_size,
        layout=module.layout,
        prompt_logps=objective.needs_prompt_logps,
        splits=not objective.couples_pairs,
        precision=str(trainer.get("precision") or "32-true"),
        device_type=device_type,
        sharing=sharing_of(strategy, _devices(trainer.get("devices"), device_type) * nodes),
        nodes=nodes,
        accumulate=trainer.get("accumulate_grad_batches") or 1,
        average_often=getattr(strategy, "average_often", None),
    )


def _device_type(accelerator: Any) -> str:
    if accelerator in ("auto", None):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if accelerator == "gpu" else str(accelerator)


def _devices(devices: Any, device_type: str) -> int:
    """How many devices of a machine there are."""
    if isinstance(devices, list):
        return len(devices)
    named = str(devices)
    if named.isdigit():
        return int(named)
    if "," in named:
        return len([each for each in named.split(",") if each.strip()])
    if device_type == "cpu":
        return 1
    here = torch.cuda.device_count() if device_type == "cuda" else 1
    if here == 0:
        raise ValueError(
            f"trainer.devices = {devices} is every GPU of a machine, and there is none here: say how many the run has, "
            "such as --trainer.devices 8"
        )
    return here


def _strategy(strategy: Any) -> Strategy | None:
    """The strategy that shares weights out; None where it leaves them whole."""
    if strategy in ("auto", None):
        return None
    if isinstance(strategy, str) and strategy in StrategyRegistry:
        known = StrategyRegistry[strategy]
        cls, arguments = known["strategy"], known["init_params"]
    else:
        path = strategy if isinstance(strategy, str) else strategy.class_path
        cls, arguments = import_class(path), {} if isinstance(strategy, str) else strategy.get("init_args", {})
    if isinstance(cls, type) and issubclass(cls, Strategy) and hasattr(cls, "shares"):
        return cls(**dict(arguments))
    if cls is DDPStrategy or (isinstance(cls, type) and issubclass(cls, SingleDeviceStrategy)):
        return None
    name = strategy if isinstance(strategy, str) else strategy.class_path
    raise ValueError(f"trainer.strategy = {name} cannot be estimated; accepted: auto, ddp, fsdp2, fsdp")


def _longest_micro_batch(
    module: PreferenceModule, data: PreferenceDataModule, trainer: Any, setup: Setup
) -> tuple[Setup, PackedBatch, Sequence[str]]:
    """The run, its longest micro-batch, and what to say of that; where the data cannot be had, a bound of it."""
    try:
        data.setup("fit")
    except (OSError, ValueError, ImportError) as error:
        reason = textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" …")
        batch, least = _bound(module, data, -(-data.global_batch_size // setup.micro_batches))
        setup = replace(setup, halved=lambda whole: _bound(module, data, -(-len(whole) // 2))[0])
        sentence = f"The data cannot be read here ({reason}). The micro-batch is what none can be longer than, "
        return setup, batch, [f"{sentence}{batch.num_tokens:,} tokens: {least}."]
    rows: Any = data.rows["train"]
    if module.needs_mismatched:
        rows = with_mismatched(rows, "train")
    plan = data.plan(rows, setup.accumulate, setup.sharing.processes, needs_rejected=module.needs_rejected)
    tokens, slot = max((plan.largest(*part) for part in _epochs(trainer, plan.steps)), key=lambda each: each[0])
    longest, row_id = plan.longest_row(slot)
    sentence = (
        f"The longest micro-batch of the data has {tokens:,} tokens in {len(slot.rows):,} rows; the longest of these"
    )
    return setup, plan.pack(slot), [f"{sentence}, {row_id}, has {longest:,}."]


def _epochs(trainer: Any, steps: int) -> Iterator[tuple[int, int]]:
    """The epochs of a run, and how many steps of each are taken."""
    epochs, left = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    limits = [epochs * steps] if epochs is not None and epochs >= 0 else []
    total = min([*limits, *([left] if left >= 0 else [])], default=steps)
    for epoch in range(max(1, -(-total // steps))):
        yield epoch, max(1, min(steps, total - epoch * steps))


def _bound(module: PreferenceModule, data: PreferenceDataModule, rows: int) -> tuple[PackedBatch, str]:
    """A micro-batch that none of so many rows is longer than, and what makes it so."""
    responses = 2 if module.needs_rejected else 1
    longest, prompt = data.limits.max_length - 1, 1
    least = f"{rows:,} rows with a prompt of one token and responses up to data.max_length = {data.limits.max_length:,}"
    if data.max_tokens_per_batch is not None and data.max_tokens_per_batch < rows * (1 + responses * (longest - 1)):
        longest = max(2, (data.max_tokens_per_batch // rows - 1) // responses + 1)
        prompt = max(1, data.max_tokens_per_batch - (rows - 1) - rows * responses * (longest - 1))
        least = f"data.max_tokens_per_batch = {data.max_tokens_per_batch:,}, beyond which a run is refused"
    roles = [Role.CHOSEN, Role.REJECTED][:responses]
    made = [
        TokenizedRow(
            f"bound:{i + 1}",
            (0,) * (1 if i else prompt),
            tuple(TokenizedResponse((0,) * longest, role) for role in roles),
        )
        for i in range(rows)
    ]
    return pack(made, step_info(made)), least


def _title(setup: Setup) -> str:
    where = f"{setup.sharing.processes} x {setup.device_type}"
    if setup.sharing.processes > 1:
        where += ", weights shared out" if isinstance(setup.sharing, Shares) else ", a copy of the weights each"
    trained = f"an adapter (r {setup.policy.lora.r})" if setup.policy.lora.is_used else "all weights"
    return f"{setup.policy.name_or_path}: {trained} trained on {where}, {setup.precision}"


def _table(found: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("on each device")
    table.add_column("at most", justify="right", no_wrap=True)
    table.add_column("at the peak", justify="right", no_wrap=True)
    table.add_column("what it is", style="dim")
    for name in COMPONENTS:
        if found.most[name]:
            table.add_row(name, in_gib(found.most[name]), in_gib(getattr(found.need, name)), _WHAT[name])
    table.add_row("all together", "", in_gib(found.need.total), _WHEN[found.need.when], style="bold")
    return table


def _account(found: Estimate) -> Iterator[str]:
    setup = found.setup
    memory = memory_of(torch.device(setup.device_type), setup.sharing.processes // setup.nodes)
    if memory is not None:
        yield f"A device here has {in_gib(memory.total)}."
    if found.need.host:
        yield f"Beside it each process keeps {in_gib(found.need.host)} in the memory of the host."
    if found.setup.policy.compile_layers:
        yield "Compiled layers need less: what they save is not known before they are compiled, and is not taken off."
    yield "Not in it: the program itself, and what an allocator holds back."
