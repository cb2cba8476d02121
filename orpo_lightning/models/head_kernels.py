"""The kernels that take log-probabilities from hidden states.

Shape suffixes: M positions, E hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from orpo_lightning.models.agreement import disagreement_of
from orpo_lightning.models.linear_logps import computing_dtype, linear_logps

HeadKernelName = Literal["blocks", "liger"]
LinearLogps = Callable[[Tensor, Tensor, Tensor | None, Tensor, float], Tensor]
SETTING = "model.policy.head_kernel"


@functools.cache
def head_kernel(name: HeadKernelName, device: torch.device, dtype: torch.dtype) -> LinearLogps:
    """A kernel by its name, held against the blocks on a few positions before it is first used on a device.

    Args:
        name: of the kernel.
        device: where it runs.
        dtype: in which it computes, that of autocast where it is on.

    Raises:
        ValueError: it cannot run there, or gives other numbers.
    """
    if name == "blocks":
        return linear_logps
    reason = _obstacle(device, dtype) or _disagreement(device, dtype)
    if reason is not None:
        raise ValueError(f"{SETTING} = {name!r}, but {reason}; accepted: blocks")
    return liger_logps


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why liger's kernel cannot run there; None if it can."""
    if device.type != "cuda":
        return f"it runs on CUDA, and this is {device.type}"
    if dtype == torch.float64:
        return "it computes in float32, bfloat16 or float16, and here is float64"
    return None


def liger_logps(
    hidden_ME: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_M: Tensor, scale: float = 1.0
) -> Tensor:
    """As :func:`~orpo_lightning.models.linear_logps.linear_logps`, by the kernel of liger-kernel, for CUDA."""
    dtype = computing_dtype(weight_VE)
    # the kernel takes some targets for marks of padding, and reads beyond the logits for others
    is_known_M = (targets_M >= 0) & (targets_M < len(weight_VE))
    with torch.autocast(hidden_ME.device.type, enabled=False):
        losses: Tensor = _liger()(
            hidden_ME.to(dtype) * scale,
            weight_VE.to(dtype),
            torch.where(is_known_M, targets_M, 0),
            bias=None if bias_V is None else bias_V.to(dtype) * scale,
            reduction="none",
            accum_dtype=torch.float32,
        )
    return torch.where(is_known_M, -losses.float(), torch.nan)


def _liger() -> Any:
    try:
        functional = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'orpo-lightning[liger]'") from error
    return functional.liger_fused_linear_cross_entropy


def _disagreement(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why liger's kernel is not to be trusted, in value and gradient; None if it is."""

    def value_and_gradients(kernel: LinearLogps) -> list[Tensor]:
        # made here, because a tensor that validation makes cannot be kept for a backward pass
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        hidden, weight, bias = (random(*shape).requires_grad_() for shape in ((70, 64), (1000, 64), (1000,)))
        logps = kernel(hidden, weight, bias, torch.arange(70, device=device), 0.5)
        return [logps.detach(), *torch.autograd.grad(logps, (hidden, weight, bias), random(70).float())]

    return disagreement_of(
        lambda: value_and_gradients(liger_logps), lambda: value_and_gradients(linear_logps), device, dtype
    )
