"""Whether a kernel gives the numbers of another one where it is about to be used for the first time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from orpo_lightning.records import HALF_PRECISION

Numbers = Callable[[], Sequence[Tensor]]
TOLERANCE = 5e-3
"""Largest relative difference, of norms; rounding of products to TF32 gives about 1e-3."""
HALF_PRECISION_TOLERANCE = 0.05
"""Rounding to bf16 gives under 0.01, a causal diagonal that is off by one over 0.2."""


def disagreement_of(found: Numbers, expected: Numbers, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a kernel is not to be trusted; None if it is.

    Args:
        found: computes values and gradients by the kernel.
        expected: computes them by the one that it is held against.
        device: where both run.
        dtype: in which the kernel computes.
    """

    def unchanged(tensor: Tensor) -> Tensor:
        return tensor

    # whatever surrounds the first call must not see this one: validation, autocast, recomputation of activations
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        saved_tensors_hooks(unchanged, unchanged),
    ):
        try:
            pairs = [(one.double(), other.double()) for one, other in zip(found(), expected(), strict=True)]
        except Exception as error:  # of a compiler, a driver, a package that is not there
            return f"it fails with {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    differences = torch.stack([(one - other).norm() / other.norm() for one, other in pairs])
    tolerance = HALF_PRECISION_TOLERANCE if dtype in HALF_PRECISION else TOLERANCE
    largest = float(differences.max())  # NaN if one of them is: the max of Python would lose it
    if largest <= tolerance:
        return None
    return f"it differs from the blocks on a few tokens: by {largest:.2g} of their norm, and {tolerance:g} is allowed"


class KernelWarning(UserWarning):
    """A kernel that should run here does not, or gives other numbers, and another one takes its place."""
