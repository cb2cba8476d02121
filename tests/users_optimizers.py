"""An optimizer such as people bring along: its state is not tensors alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Counting(Optimizer):
    """Keeps a whole number, a fraction, nothing, and tensors in a dictionary and a list; each step depends on them."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"])
        return loss

    def _move(self, weight: torch.Tensor, rate: float) -> None:
        state = self.state[weight]
        if not state:
            first, second = torch.zeros_like(weight), torch.zeros_like(weight)
            state.update(step=0, scale=1.0, before=None, moments={"first": first, "others": [second, None]})
        state["step"] += 1
        state["scale"] *= 0.9
        first, (second, nothing) = state["moments"]["first"], state["moments"]["others"]
        assert state["before"] is None
        assert nothing is None
        first.lerp_(weight.grad, 0.1)
        second.add_(first, alpha=state["scale"])
        weight.add_(first / (1 - 0.9 ** state["step"]) + second, alpha=-rate)
