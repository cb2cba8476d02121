"""What FSDP1 makes flat tensors of: each of weights of one dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from orpo_lightning.models.layers import has_copy, layers_to_gather


def units_of(net: nn.Module) -> Iterator[nn.Module]:
    """The modules whose weights are gathered together: decoder layers, and in these those of another dtype.

    Raises:
        ValueError: weights of two dtypes cannot be told apart by modules.
    """
    layers = layers_to_gather(net)
    within = tuple(f"{name}." for name in layers)
    others = [weight for name, weight in net.named_parameters() if not name.startswith(within)]
    _check_dtypes(others, "the embeddings, the last norm and the head")
    for name, layer in layers.items():
        size_of = Counter[torch.dtype]()
        for weight in layer.parameters():
            size_of[weight.dtype] += weight.numel()
        dtype, _ = size_of.most_common(1)[0]
        apart = [each for inner, each in layer.named_modules() if not has_copy(inner) and _differs(each, dtype)]
        of_apart = {weight for each in apart for weight in each.parameters()}
        _check_dtypes([weight for weight in layer.parameters() if weight not in of_apart], name)
        yield layer
        yield from apart


def _differs(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a module that is called, such as a matrix of an adapter, has weights of another dtype alone."""
    if isinstance(module, (nn.ParameterDict, nn.ParameterList)) or next(module.children(), None) is not None:
        return False
    dtypes = {weight.dtype for weight in module.parameters()}
    return bool(dtypes) and dtype not in dtypes


def _check_dtypes(weights: Iterable[Tensor], of: str) -> None:
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights})
    if len(dtypes) > 1:
        raise ValueError(
            f"trainer.strategy fsdp makes one flat tensor of the weights of {of}, which are in {' and '.join(dtypes)}; "
            "accepted: model.policy.dtype float32, an adapter without modules_to_save, or trainer.strategy fsdp2"
        )
