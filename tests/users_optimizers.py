"""Optimizers such as people bring along: their state is not tensors of the shapes of the weights alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


class _Own(Optimizer):
    """Moves one weight after the other, by `_move`."""

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
        raise NotImplementedError


class Counting(_Own):
    """Keeps a whole number, a fraction, nothing, and tensors in a dictionary and a list; each step depends on them."""

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


class Factored(_Own):
    """Keeps of squared gradients the means over the columns, over the rows and over all; each step depends on them."""

    def _move(self, weight: torch.Tensor, rate: float) -> None:
        state, squared = self.state[weight], weight.grad.square() + 1e-6
        means = {
            "rows": squared.mean(-1, keepdim=True),
            "columns": squared.mean(0, keepdim=True),
            "all": squared.mean(),
        }
        for name, mean in means.items():
            state[name] = mean if name not in state else state[name].lerp(mean, 0.1)
        weight.add_(weight.grad * (state["all"] / (state["rows"] * state["columns"])).sqrt(), alpha=-rate)


class Gathering(_Own):
    """Keeps whole means of gradients in each process, and beside the weights how often it has moved any, twice."""

    def _move(self, weight: torch.Tensor, rate: float) -> None:
        state, of_all = self.state[weight], self.state["all"]
        gradient = weight.grad.full_tensor() if isinstance(weight, DTensor) else weight.grad
        of_all["moves"] = of_all.get("moves", 0) + 1
        of_all["steps"] = of_all.get("steps", torch.zeros(2)) + 1
        assert of_all["steps"].tolist() == [of_all["moves"]] * 2
        mean = state["mean"] = state["mean"].lerp(gradient, 0.1) if state else gradient.clone()
        assert not isinstance(mean, DTensor)
        own = distribute_tensor(mean, weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else mean
        weight.add_(own, alpha=-rate * 0.99 ** of_all["moves"])


class OfItsPart(_Own):
    """Keeps of each gradient the sum of what the process has of it, which is another one in each."""

    def _move(self, weight: torch.Tensor, rate: float) -> None:
        gradient = weight.grad.to_local() if isinstance(weight, DTensor) else weight.grad
        self.state[weight]["sum"] = gradient.sum()
        weight.add_(weight.grad, alpha=-rate)


class SharedOfNone(_Own):
    """Keeps a gradient that is shared out, and says of no weight that it is its own."""

    def _move(self, weight: torch.Tensor, rate: float) -> None:
        self.state["all"]["gradient"] = weight.grad.clone()
        weight.add_(weight.grad, alpha=-rate)


class OfRows(_Own):
    """Keeps the means over the columns without the dimension, as many factored optimizers do."""

    def _move(self, weight: torch.Tensor, rate: float) -> None:
        self.state[weight]["rows"] = weight.grad.square().mean(-1)
        weight.add_(weight.grad, alpha=-rate)
