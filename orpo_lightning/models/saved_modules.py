"""Modules that are trained in full beside an adapter; over a base in half precision their weights are kept in fp32."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.func import functional_call

from orpo_lightning.records import HALF_PRECISION


class MasterWeights(ModulesToSaveWrapper):
    """A module beside which a copy is trained whose weights have a higher precision than its own.

    The copy computes as the module does, with its weights rounded to the dtype of those: an update that rounding would
    lose in one step adds up over several, and a copy that has not been trained gives the numbers of the module.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the copy computes; with the adapter switched off, what the module does."""
        if self.disable_adapters or not self.active_adapters:
            return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]  # peft has no types
        copy = self.modules_to_save[self.active_adapters[0]]
        return functional_call(copy, self._rounded(copy), args, kwargs)

    def unload_and_optionally_merge_module(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The copy with the weights that it computes with, to take the place of the module."""
        copy: nn.Module = super().unload_and_optionally_merge_module(*args, **kwargs)
        weights = dict(copy.named_parameters())
        for name, rounded in self._rounded(copy).items():
            weights[name].data = rounded.detach()
        return copy

    def _rounded(self, copy: nn.Module) -> dict[str, Tensor]:
        own = dict(self.original_module.named_parameters())
        return {name: weight.to(own[name].dtype) for name, weight in copy.named_parameters()}


def take_over_copies(net: PeftModel) -> None:
    """Keep the modules of an adapter that are trained in full in fp32, as peft keeps its low-rank matrices.

    They read the settings of the model, as the others do, in place of a copy from when they were made: these say by
    what attention is computed.
    """
    for wrapper in net.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for copy in wrapper.modules_to_save.values():
                for weight in copy.parameters():
                    if weight.dtype in HALF_PRECISION:
                        weight.data = weight.data.to(torch.float32)
                for own, copied in zip(wrapper.original_module.modules(), copy.modules(), strict=True):
                    if "config" in vars(own):
                        vars(copied)["config"] = own.config
            # peft makes these itself, and has no way to be told of another class
            wrapper.__class__ = MasterWeights
