"""Log-probabilities of given tokens straight from hidden states and the output embedding, a block of logits at a time.

The softmax is normalised block by block over the vocabulary. What is kept for the backward pass is one number per
position; each block of logits is computed once more there, and its part of both gradients from it.

Shape suffixes: M positions, C positions of a block, E hidden size, V vocabulary, B vocabulary entries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_POSITIONS = 2048
"""Most positions of a block. The block of the gradient of the embedding is read and written once for each."""
BLOCK_LOGITS = {"cpu": 4 * 2**20}
"""Most logits of a block by kind of device: 16 MB in fp32, which stay in a CPU's cache between operations."""
OTHER_BLOCK_LOGITS = 64 * 2**20
"""The same for an accelerator, which larger products keep busy."""
_block_logits: ContextVar[int | None] = ContextVar("_block_logits", default=None)


@contextmanager
def blocks_of(device_type: str) -> Iterator[None]:
    """Have blocks as large as on a kind of device, on whatever device they are: to find out what they would hold."""
    token = _block_logits.set(most_logits(device_type))
    try:
        yield
    finally:
        _block_logits.reset(token)


def most_logits(device_type: str) -> int:
    """The most logits of a block on a kind of device.

    Example:
        >>> most_logits("cpu") < most_logits("cuda")
        True
    """
    return _block_logits.get() or BLOCK_LOGITS.get(device_type, OTHER_BLOCK_LOGITS)


def linear_logps(
    hidden_ME: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_M: Tensor, scale: float = 1.0
) -> Tensor:
    r"""Log-probabilities of the targets, :math:`\log \mathrm{softmax}(s (W h + b))_t`, nats, ``(M,)``, fp32 or higher.

    Equal to the log-softmax of all logits, in value and first derivative, for any gradient that comes back. Products,
    and the bias that is added to them, are in the precision of :func:`computing_dtype`; all else is in fp32 or higher.
    No more than 64 * 2^20 logits are held at a time, on a CPU 4 * 2^20; in half precision a copy of them in fp32, too.
    A target outside of the vocabulary has the log-probability NaN.

    Args:
        hidden_ME: hidden states, ``(M, E)``.
        weight_VE: output embedding, ``(V, E)``.
        bias_V: its bias, ``(V,)``, or None.
        targets_M: the token at each position, ``(M,)``, from 0 to V - 1.
        scale: factor of the logits.

    Example:
        >>> linear_logps(torch.zeros(1, 2), torch.ones(4, 2), None, torch.tensor([2]))
        tensor([-1.3863])
    """
    logps: Tensor = _LinearLogps.apply(  # type: ignore[no-untyped-call]  # autograd.Function
        hidden_ME, weight_VE, bias_V, targets_M, scale, computing_dtype(weight_VE)
    )
    return logps


def computing_dtype(weight: Tensor) -> torch.dtype:
    """Precision of a product with a weight: that of autocast where it is on, which leaves fp64 alone, else its own.

    Args:
        weight: of a linear layer.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     computing_dtype(torch.zeros(1)), computing_dtype(torch.zeros(1, dtype=torch.float64))
        (torch.bfloat16, torch.float64)
    """
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


class _LinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: Tensor,
        weight_VE: Tensor,
        bias_V: Tensor | None,
        targets_M: Tensor,
        scale: float,
        computed_in: torch.dtype,
    ) -> Tensor:
        # what no block finds stays NaN: any number would look like a log-probability
        logit_M = torch.full((len(targets_M),), torch.nan, dtype=_raised(computed_in), device=hidden_ME.device)
        normaliser_M = torch.full_like(logit_M, -torch.inf)
        ctx.scale, ctx.computed_in = scale, computed_in
        with torch.autocast(hidden_ME.device.type, enabled=False):
            for block in _vocabulary_blocks(hidden_ME, weight_VE):
                weight_BE = weight_VE[block].to(computed_in)
                for some in _position_blocks(hidden_ME):
                    logits_CB = _logits(hidden_ME[some].to(computed_in), weight_BE, bias_V, block, scale)
                    place_C, is_here_C = _places(targets_M[some], block)
                    found_C = logits_CB.gather(1, place_C[:, None])[:, 0]
                    logit_M[some] = torch.where(is_here_C, found_C, logit_M[some])
                    # a vocabulary may be padded with logits of minus infinity: their differences must not be NaN
                    largest_C = logits_CB.amax(dim=1).clamp_min(torch.finfo(logits_CB.dtype).min)
                    total_C = logits_CB.sub_(largest_C[:, None]).exp_().sum(dim=1)
                    normaliser_M[some] = torch.logaddexp(normaliser_M[some], total_C.log() + largest_C)
        ctx.save_for_backward(hidden_ME, weight_VE, bias_V, targets_M, normaliser_M)
        return logit_M - normaliser_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ME, weight_VE, bias_V, targets_M, normaliser_M = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        raised = normaliser_M.dtype
        hidden_grad_ME = torch.zeros_like(hidden_ME, dtype=raised) if of_hidden else None
        weight_grad_VE = torch.empty_like(weight_VE) if of_weight else None
        bias_grad_V = torch.zeros_like(bias_V, dtype=raised) if of_bias else None
        with torch.autocast(hidden_ME.device.type, enabled=False):
            for block in _vocabulary_blocks(hidden_ME, weight_VE):
                weight_BE = weight_VE[block].to(ctx.computed_in)
                weight_grad_BE = torch.zeros_like(weight_BE, dtype=raised) if of_weight else None
                for some in _position_blocks(hidden_ME):
                    hidden_CE = hidden_ME[some].to(ctx.computed_in)
                    logits_CB = _logits(hidden_CE, weight_BE, bias_V, block, ctx.scale)
                    logit_grad_CB = logits_CB.sub_(normaliser_M[some, None]).exp_().mul_(-gradient_M[some, None])
                    place_C, is_here_C = _places(targets_M[some], block)
                    own_C = torch.where(is_here_C, gradient_M[some], 0.0)
                    logit_grad_CB.scatter_add_(1, place_C[:, None], own_C[:, None])
                    if ctx.scale != 1.0:
                        logit_grad_CB.mul_(ctx.scale)
                    if bias_grad_V is not None:
                        bias_grad_V[block] += logit_grad_CB.sum(dim=0)
                    logit_grad_CB = logit_grad_CB.to(ctx.computed_in)
                    if hidden_grad_ME is not None:
                        _add_product(hidden_grad_ME[some], logit_grad_CB, weight_BE)
                    if weight_grad_BE is not None:
                        _add_product(weight_grad_BE, logit_grad_CB.t(), hidden_CE)
                if weight_grad_VE is not None and weight_grad_BE is not None:
                    weight_grad_VE[block] = weight_grad_BE
        if hidden_grad_ME is not None:
            hidden_grad_ME = hidden_grad_ME.to(hidden_ME.dtype)
        if bias_grad_V is not None:
            bias_grad_V = bias_grad_V.to(bias_V.dtype)
        return hidden_grad_ME, weight_grad_VE, bias_grad_V, None, None, None


def _raised(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _vocabulary_blocks(hidden_ME: Tensor, weight_VE: Tensor) -> Iterator[slice]:
    positions = max(1, min(len(hidden_ME), BLOCK_POSITIONS))
    size = max(1, most_logits(hidden_ME.device.type) // positions)
    entries = len(weight_VE)
    # up to the last entry: a target beyond it must not look as if it were in the last block
    return (slice(start, min(start + size, entries)) for start in range(0, entries, size))


def _position_blocks(hidden_ME: Tensor) -> Iterator[slice]:
    return (slice(start, start + BLOCK_POSITIONS) for start in range(0, len(hidden_ME), BLOCK_POSITIONS))


def _logits(hidden_CE: Tensor, weight_BE: Tensor, bias_V: Tensor | None, block: slice, scale: float) -> Tensor:
    logits_CB = hidden_CE @ weight_BE.t()
    if bias_V is not None:
        logits_CB += bias_V[block].to(logits_CB.dtype)
    logits_CB = logits_CB.to(_raised(logits_CB.dtype))
    return logits_CB if scale == 1.0 else logits_CB.mul_(scale)


def _places(targets_C: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Where in the block each target stands, and whether it does: without a wait for the device."""
    is_here_C = (targets_C >= block.start) & (targets_C < block.stop)
    return torch.where(is_here_C, targets_C - block.start, 0), is_here_C


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
