"""Whether an optimizer moves weights that a strategy shares out as it moves whole ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from orpo_lightning.modules.optimization import OptimizerConfig, build_optimizer
from orpo_lightning.ranks import place_among_ranks, together

_STEPS, _RATE = 3, 0.01
_TOLERANCE = 0.1
"""Of the way that a weight has gone: rounding in bf16 stays far below it, another algorithm does not."""
_PartOf = Callable[[Tensor], Tensor]
_Shapes = Mapping[str, tuple[int, ...]]
"""Of weights, by name."""


@together
def check_optimizer(config: OptimizerConfig, strategy: object) -> None:
    """Have the optimizer step a small matrix and a bias, whole and shared out, and a matrix alone; all call this.

    Args:
        config: the optimizer.
        strategy: that of the trainer; one that shares weights out has `part_of`, what this process holds of one.

    Raises:
        ValueError: it fails on weights that are shared out, or moves them otherwise.

    Example:
        >>> check_optimizer(OptimizerConfig(), strategy=None)
    """
    part_of: _PartOf | None = getattr(strategy, "part_of", None)
    if part_of is None:
        return
    matrix = {"matrix": (2 * place_among_ranks()[1] + 1, 3)}
    for shapes in (matrix | {"bias": (3,)}, matrix):  # there are some that take matrices alone, or weights of one kind
        _check(config, shapes, part_of, type(strategy).__name__)


def _check(config: OptimizerConfig, shapes: _Shapes, part_of: _PartOf, strategy: str) -> None:
    try:
        whole, again = (_moves(config, shapes, lambda weight: weight, seed) for seed in (0, 1))
    except Exception:  # what an optimizer says of whole weights it says of all: the run is going to hear of it
        return
    said = f"model.optimizer.algorithm = {config.algorithm!r}"
    advice = "accepted: one that takes each number by itself, such as torch.optim.AdamW, or trainer.strategy ddp"
    try:
        found = _moves(config, shapes, part_of)
    except Exception as error:  # whatever it is, the model would be loaded in vain
        cause = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise ValueError(f"{said} cannot step weights that {strategy} shares out ({cause}); {advice}") from error
    draws = any(not torch.equal(*pair) for pair in zip(whole, again, strict=True))
    if not draws and any(_differ(_own(part_of(move)), part) for move, part in zip(whole, found, strict=True)):
        raise ValueError(f"{said} moves weights that {strategy} shares out otherwise than whole ones; {advice}")


def _moves(config: OptimizerConfig, shapes: _Shapes, part_of: _PartOf, seed: int = 0) -> list[Tensor]:
    """How far weights have been moved by the steps, in this process."""
    numbers = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(part_of(torch.randn(shape, generator=numbers))) for shape in shapes.values()]
    before = [_own(weight).clone() for weight in weights]
    optimizer = build_optimizer(
        replace(config, lr=_RATE),
        zip(shapes, weights, strict=True),
        fused=False,
        dim_of=lambda weight: 2 if weight is weights[0] else 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(_STEPS):
            for weight, shape in zip(weights, shapes.values(), strict=True):
                weight.grad = part_of(torch.randn(shape, generator=numbers))
            optimizer.step(lambda: 0.0)
    return [_own(weight) - start for weight, start in zip(weights, before, strict=True)]


def _own(weight: Tensor) -> Tensor:
    return (weight.to_local() if isinstance(weight, DTensor) else weight).detach().cpu()


def _differ(expected: Tensor, found: Tensor) -> bool:
    return bool((found - expected).norm() > _TOLERANCE * expected.norm())
