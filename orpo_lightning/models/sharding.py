"""Models whose weights are shared out over processes (FSDP2), and never exist whole on one of them.

Each process reads from the files what it is going to hold. The weights of a decoder layer are gathered while it
computes; the embeddings, the last norm and the head while the model does.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import PreTrainedModel

from orpo_lightning.models.building import Model, refuse_four_bits
from orpo_lightning.models.identity import is_of_adapter, name_without_adapter
from orpo_lightning.models.layers import layers_to_gather
from orpo_lightning.models.loading import PolicyConfig, finish_loading, read_in_parts
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.ranks import fail_together


@dataclass(frozen=True)
class ShardedBuilder:
    """Makes models whose weights are shared out over the processes of a mesh.

    Args:
        mesh: the processes, in one dimension.
        gathered_dtype: of a layer's weights while it computes; None is that of the model.
        reduced_dtype: in which gradients are averaged over the processes; None is that of the gathered weights.
        offload: whether each process keeps its part of the weights in the memory of the host between steps (CUDA).
    """

    mesh: DeviceMesh
    gathered_dtype: torch.dtype | None = None
    reduced_dtype: torch.dtype | None = None
    offload: bool = False

    def __call__(self, config: PolicyConfig, wrap: Callable[[PreTrainedModel], Model]) -> Model:
        """Load a model in parts; all processes call this.

        Args:
            config: the model.
            wrap: what makes of it a function of a batch.

        Raises:
            As :func:`~orpo_lightning.models.loading.load_causal_lm`.
        """
        refuse_four_bits(config)
        net, weights = read_in_parts(config, self.mesh.size())
        parts = {name: self._part(weight) for name, weight in weights.items()}
        del weights
        gc.collect()  # the model that they were read into holds itself, and would hold them until after they are copied
        # an adapter draws its own weights as it does beside whole ones, on the CPU
        _put(net, lambda weight: torch.empty((), dtype=weight.dtype).expand(weight.shape), parts)
        net = fail_together(lambda: finish_loading(net, config))
        read = _read_as(net, config, parts)
        _put(net, lambda weight: torch.empty(weight.shape, dtype=weight.dtype, device="meta"), read)
        model = wrap(net)
        model.gathered_dtype = self._gathered_dtype_of(net)
        self._shard(model)
        self._fill(model, parts, read)
        return model

    def _part(self, weight: Tensor) -> Tensor:
        if not isinstance(weight, DTensor):
            weight = distribute_tensor(weight, self.mesh, [Shard(0)], src_data_rank=None)
        return weight.to_local()

    def _gathered_dtype_of(self, net: nn.Module) -> torch.dtype | None:
        # on a CPU torch's layer norm takes no weights in half precision beside an input in fp32; where they stay in
        # fp32, autocast rounds what it multiplies, as in one process
        keeps = self.mesh.device_type == "cpu" and any(isinstance(each, nn.LayerNorm) for each in net.modules())
        return None if keeps else self.gathered_dtype

    def _shard(self, model: LogpModel) -> None:
        offload = CPUOffloadPolicy() if self.offload else OffloadPolicy()
        # what flows between the layers stays in the dtype that it has on one device
        policy = MixedPrecisionPolicy(model.gathered_dtype, self.reduced_dtype, cast_forward_inputs=False)
        for layer in layers_to_gather(model.net).values():
            fully_shard(layer, mesh=self.mesh, mp_policy=policy, offload_policy=offload)
        policy = MixedPrecisionPolicy(None, self.reduced_dtype, cast_forward_inputs=False)
        is_trained = any(each.requires_grad for each in model.parameters())
        # a backward pass begins with the head, whose weights are still there
        fully_shard(
            model, mesh=self.mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=not is_trained
        )

    def _fill(self, model: LogpModel, parts: dict[str, Tensor], read: Mapping[str, str]) -> None:
        """Give a model without weights those that were read, which are let go one after the other."""
        home = torch.device("cpu") if self.offload else _device_of(self.mesh)
        filled: dict[int, nn.Parameter] = {}
        names = {
            f"net.{name}": weight for name, weight in model.net.named_parameters(remove_duplicate=False) if name in read
        }
        with_part: defaultdict[str, list[nn.Parameter]] = defaultdict(list)
        for name, weight in names.items():
            with_part[read[name.removeprefix("net.")]].append(weight)
        for part_name in with_part:
            part = parts.pop(part_name)
            for weight in with_part[part_name]:
                if id(weight) in filled:
                    continue
                # DTensor.from_local would take the part to the device of the mesh, also where it is to be offloaded
                whole = torch.empty_like(weight, device=home)
                assert isinstance(whole, DTensor)
                whole.to_local().copy_(part)
                filled[id(weight)] = nn.Parameter(whole, weight.requires_grad)
        state = {name: filled[id(weight)] for name, weight in names.items() if id(weight) in filled}
        model.load_state_dict(state, strict=False, assign=True)


def _device_of(mesh: DeviceMesh) -> torch.device:
    """The device of this process."""
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.accelerator.current_device_index())


def sharded_models(module: nn.Module) -> list[FSDPModule]:
    """The parts of a module whose weights are gathered together, those of all models in it."""
    return [each for each in module.modules() if isinstance(each, FSDPModule)]


def _read_as(net: nn.Module, config: PolicyConfig, parts: Collection[str]) -> dict[str, str]:
    """The names of the weights that begin as those that were read, and the names of these."""
    names = {name: name_without_adapter(name) for name, _ in net.named_parameters(remove_duplicate=False)}
    # an adapter that training goes on with has brought along its own
    brings_own = config.lora.adapter is not None
    return {name: own for name, own in names.items() if own in parts and not (brings_own and is_of_adapter(name))}


def _put(net: nn.Module, make: Callable[[Tensor], Tensor], read: Collection[str]) -> None:
    """Put other tensors in the place of weights of these names; tied weights stay one."""
    made: dict[int, nn.Parameter] = {}
    for name, weight in list(net.named_parameters(remove_duplicate=False)):
        if name not in read:
            continue
        if id(weight) not in made:
            made[id(weight)] = nn.Parameter(make(weight), weight.requires_grad)
        module, _, own_name = name.rpartition(".")
        setattr(net.get_submodule(module), own_name, made[id(weight)])
