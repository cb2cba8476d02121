"""What a training step of a model would hold: the step is run on tensors that have a shape, a dtype and no memory.

Layers that are alike add the same to each moment of the step. Of a deep model a step with two layers and one with three
are run, and the moments of all layers follow from these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from transformers import PreTrainedModel

from orpo_lightning.memory import Footprint, Moment, Parts, extrapolated
from orpo_lightning.models.attention.choice import AttentionKernelName
from orpo_lightning.models.attention.packed import AttentionLayout
from orpo_lightning.models.attention.varlen import VarlenAttention
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.layers import decoder_layers, layers_to_gather
from orpo_lightning.models.ledger import Ledger
from orpo_lightning.models.linear_logps import blocks_of
from orpo_lightning.models.loading import PolicyConfig, load_without_weights
from orpo_lightning.models.logp_model import Layout, LogpModel
from orpo_lightning.packing import PackedBatch

_PRETENDED = "cpu"
"""Where tensors without memory are: its autocast and attention are there in every build of torch."""
_MOST_IN_BLOCKS = 16
"""Rows whose attention is run block by block, as on a CPU; of more of them that takes minutes, and tells 6 % more."""
_BETWEEN = "a layer between the first and the last"


@dataclass(frozen=True)
class StepOfModel:
    """A training step, as far as its memory depends on it.

    Args:
        policy: the model that is trained.
        optimizer: makes the optimizer of the policy.
        reference: a second model that runs beside it; None for none.
        adapter_off: whether the policy runs a second time, without its adapter.
        layout: of the micro-batches.
        prompt_logps: whether the prompts are scored too.
        device_type: where it would run.
        dtype: of all weights, whatever they are loaded in; None leaves them.
        autocast: in which products are computed; None is that of the weights.
        gathered: in which decoder layers are gathered to compute; None where they are not, or as they are.
        reduced: in which gradients are averaged over processes, at least; None is as they come.
        adds_up: whether gradients of earlier micro-batches are there.
    """

    policy: PolicyConfig
    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]
    reference: PolicyConfig | None = None
    adapter_off: bool = False
    layout: Layout = "auto"
    prompt_logps: bool = True
    device_type: str = "cpu"
    dtype: torch.dtype | None = None
    autocast: torch.dtype | None = None
    gathered: torch.dtype | None = None
    reduced: torch.dtype | None = None
    adds_up: bool = False


def footprint_of(step: StepOfModel, batch: PackedBatch) -> Footprint:
    """What a step holds, its last micro-batch being this one.

    Args:
        step: what is trained and how.
        batch: the micro-batch.

    Raises:
        ValueError: the optimizer cannot step without values; and as of
            :func:`~orpo_lightning.models.loading.load_without_weights`.
    """
    with torch.device("meta"):
        net = _in_dtype(load_without_weights(step.policy), step.dtype)
        reference = None if step.reference is None else _in_dtype(load_without_weights(step.reference), step.dtype)
    with FakeTensorMode() as mode:
        for each in (net, reference):
            if each is not None:
                _pretend(each)
        state, stepping = _optimizer(step, net)
        own_reference = _parts_of(reference)
        own, trained = _sizes(net), {name for name, each in net.named_parameters() if each.requires_grad}
        for each in (net, reference) if step.gathered is not None else ():
            for layer in layers_to_gather(each).values() if each is not None else ():
                _pretend(layer, step.gathered)
        computing = _sizes(net)
        reduced = {
            name: each.numel() * max(each.itemsize, 0 if step.reduced is None else step.reduced.itemsize)
            for name, each in net.named_parameters()
        }
        layers = list(layers_to_gather(net))
        return Footprint(
            weights=_parts(own, layers),
            gathered=_parts(computing, layers),
            gradients=_parts(own, layers, trained),
            arriving=_parts(computing, layers, trained),
            reduced=_parts(reduced, layers, trained),
            state=state,
            stepping=stepping,
            reference=own_reference,
            gathered_reference=_parts_of(reference),
            moments=_moments(step, net, reference, lambda: _without_memory(batch, mode)),
            adds_up=step.adds_up,
        )


def _in_dtype(net: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    return net if dtype is None else nn.Module.to(net, dtype)


def _pretend(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Put tensors without memory in the place of all weights, as if they were here; tied ones stay one.

    Args:
        module: its weights are on the meta device, or put there by this function.
        dtype: of the weights; None is that which they have.
    """
    made: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, each in owner.named_parameters(recurse=False):
            if id(each) not in made:
                empty = torch.empty(each.shape, dtype=dtype or each.dtype, device=_PRETENDED)
                made[id(each)] = nn.Parameter(empty, each.requires_grad)
            setattr(owner, name, made[id(each)])
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=_PRETENDED))


def _without_memory(batch: PackedBatch, mode: FakeTensorMode) -> PackedBatch:
    return PackedBatch(
        **{name: mode.from_tensor(each) if isinstance(each, Tensor) else each for name, each in vars(batch).items()}
    )


def _sizes(net: nn.Module) -> dict[str, int]:
    return {name: each.numel() * each.itemsize for name, each in (*net.named_parameters(), *net.named_buffers())}


def _parts(sizes: dict[str, int], layers: list[str], names: Iterable[str] | None = None) -> Parts:
    """Sizes by what is gathered together; of some names only."""
    kept = sizes if names is None else {name: sizes[name] for name in names}
    of_layers = [sum(size for name, size in kept.items() if name.startswith(f"{layer}.")) for layer in layers]
    return Parts(sum(kept.values()) - sum(of_layers), sum(of_layers), max(of_layers, default=0))


def _parts_of(net: PreTrainedModel | None) -> Parts:
    return Parts() if net is None else _parts(_sizes(net), list(layers_to_gather(net)))


def _optimizer(step: StepOfModel, net: PreTrainedModel) -> tuple[int, int]:
    """Bytes of the optimizer's state, and of what comes and goes while it steps."""
    trained = [each for each in net.parameters() if each.requires_grad]
    for each in trained:
        each.grad = torch.empty_like(each)
    ledger = Ledger([*trained, *(each.grad for each in trained if each.grad is not None)])
    try:
        with ledger:
            optimizer = step.optimizer(net.named_parameters())
            optimizer.step()
            state, before = ledger.held["activations"], len(ledger.moments)
            optimizer.step()
    except Exception as error:  # whatever a class does that needs to know numbers
        raise ValueError(f"what the optimizer would hold cannot be told without values ({error})") from error
    finally:
        for each in trained:
            each.grad = None
    most = max((moment.activations for _, moment in ledger.moments[before:]), default=state)
    return state, max(0, most - state)


class _Weightless(LogpModel):
    """A model without weights, whose numbers cannot be compared with those of another layout."""

    def __init__(self, net: PreTrainedModel, step: StepOfModel) -> None:
        super().__init__(net, step.layout, Kernels(attention="blocks"))
        self._is_on_cpu = step.device_type == "cpu"

    def verdict(self) -> str | None:
        return self.obstacle()

    def attention_layout(self, batch: PackedBatch, kernel: AttentionKernelName) -> AttentionLayout:
        in_blocks = self._is_on_cpu and len(batch) <= _MOST_IN_BLOCKS
        return super().attention_layout(batch, kernel) if in_blocks else _VarlenLayout(batch)


class _VarlenLayout(AttentionLayout):
    """Attention by the kernel for CUDA, which is asked for nothing but the shape of what it returns."""

    def __init__(self, batch: PackedBatch) -> None:
        super().__init__(batch.groups, "varlen")
        self._kernel = VarlenAttention(batch.groups, torch.device(_PRETENDED))

    def attend(self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, *options: Any) -> Tensor:
        return self._kernel.attend(query_HND, key_KND, value_KND, *options)


def _moments(
    step: StepOfModel, net: PreTrainedModel, reference: PreTrainedModel | None, batch: Callable[[], PackedBatch]
) -> list[Moment]:
    """Those of a micro-batch, one after the other; each run needs it anew, as masks are kept with it."""
    names = list(decoder_layers(net))
    if reference is not None and _are_alike(reference):
        _cut(reference, 3)  # which frees each layer's activations before the next one
    if len(names) > 3 and _are_alike(net):
        found = []
        for layers in (3, 2):
            _cut(net, layers)
            found.append([moment for place, moment in _run(step, net, reference, batch()) if place != _BETWEEN])
        three, two = found
        moments = extrapolated(two, three, len(names))
        assert moments is not None, "layers that are alike do the same"
        return moments
    return [moment for _, moment in _run(step, net, reference, batch())]


def _are_alike(net: PreTrainedModel) -> bool:
    """Whether all layers do the same on tensors of the same shapes, and can be taken away."""
    layers = decoder_layers(net)
    shapes = {
        (type(layer), tuple((name, each.shape, each.dtype) for name, each in layer.named_parameters()))
        for layer in layers.values()
    }
    lists = {name.rpartition(".")[0] for name in layers}
    kinds = set(getattr(net.config.get_text_config(), "layer_types", None) or ())
    return len(shapes) == len(lists) == 1 and len(kinds) <= 1 and isinstance(net.get_submodule(*lists), nn.ModuleList)


def _cut(net: PreTrainedModel, layers: int) -> None:
    """Leave a model that many layers."""
    name = next(iter(decoder_layers(net))).rpartition(".")[0]
    owner, _, own_name = name.rpartition(".")
    kept = cast(nn.ModuleList, net.get_submodule(name))[:layers]
    setattr(net.get_submodule(owner), own_name, kept)


def _run(
    step: StepOfModel, net: PreTrainedModel, reference: PreTrainedModel | None, batch: PackedBatch
) -> list[tuple[str, Moment]]:
    """The moments of a micro-batch, with where in the decoder they are."""
    policy = _Weightless(net, step)
    other = None if reference is None else _Weightless(reference.requires_grad_(False).eval(), step)
    there = [*policy.parameters(), *policy.buffers()]
    there += [] if other is None else [*other.parameters(), *other.buffers()]
    for each in net.parameters() if step.adds_up else ():
        each.grad = torch.empty_like(each) if each.requires_grad else None
    ledger = Ledger(there)
    with ledger, _followed(policy, ledger), blocks_of(step.device_type):
        with torch.autocast(_PRETENDED, step.autocast, enabled=step.autocast is not None):
            table = policy(batch, prompt_logps=step.prompt_logps)
            loss = table.logps.sum() if table.prompt_logps is None else table.logps.sum() + table.prompt_logps.sum()
            ledger.when = ledger.kind = "reference"
            with torch.no_grad():
                if other is not None:
                    other(batch, prompt_logps=step.prompt_logps)
                elif step.adapter_off:
                    with cast(Any, net).disable_adapter():
                        policy(batch, prompt_logps=step.prompt_logps)
        ledger.when = ledger.kind = "head"
        del table
        loss.backward()
    net.zero_grad()
    return ledger.moments


@contextmanager
def _followed(policy: LogpModel, ledger: Ledger) -> Iterator[None]:
    """Have a ledger know where in a model the policy's forward and backward pass are."""
    layers = list(decoder_layers(policy.net).values())
    handles = []

    def go_back(place: str) -> Callable[[Tensor], None]:
        def enter(gradient: Tensor) -> None:
            ledger.kind, ledger.when, ledger.place = "activations", "backward", place

        return enter

    for i, layer in enumerate(layers):
        place = "the first layer" if i == 0 else "the last layer" if i == len(layers) - 1 else _BETWEEN

        def enter(module: nn.Module, inputs: Any, place: str = place) -> None:
            ledger.place = place

        def leave(module: nn.Module, inputs: Any, output: Any, place: str = place) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if hidden.requires_grad:
                hidden.register_hook(go_back(place))

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    def leave_decoder(module: nn.Module, inputs: Any, output: Any) -> None:
        ledger.place = ""
        if output.last_hidden_state.requires_grad:
            ledger.when = ledger.kind = "head"
            output.last_hidden_state.register_hook(go_back(""))

    decoder = cast(nn.Module, policy.net.get_decoder())
    handles.append(decoder.register_forward_hook(leave_decoder))
    of_layers = {id(each) for layer in layers_to_gather(policy.net).values() for each in layer.parameters()}

    def added_up(weight: Tensor) -> None:
        assert weight.grad is not None
        ledger.count_as("layer_gradients" if id(weight) in of_layers else "root_gradients", weight.grad)

    for weight in policy.parameters():
        if weight.requires_grad:
            handles.append(weight.register_post_accumulate_grad_hook(added_up))
        if weight.grad is not None:
            added_up(weight)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
