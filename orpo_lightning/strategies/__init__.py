"""Strategies of the trainer that share a model out over processes, by the names that the command line knows."""

from lightning.pytorch.strategies import StrategyRegistry

from orpo_lightning.strategies.fsdp1 import FSDP1Strategy
from orpo_lightning.strategies.fsdp2 import FSDP2Strategy

__all__ = ["FSDP1Strategy", "FSDP2Strategy", "register_strategies"]


def register_strategies() -> None:
    """Have the trainer know these strategies as ``fsdp2`` and ``fsdp``; the latter was Lightning's own."""
    StrategyRegistry.register("fsdp2", FSDP2Strategy, description="weights shared out (FSDP2)", override=True)
    StrategyRegistry.register("fsdp", FSDP1Strategy, description="weights shared out (FSDP1)", override=True)
    StrategyRegistry.register("fsdp_cpu_offload", FSDP1Strategy, "FSDP1 in the host's memory", True, cpu_offload=True)
