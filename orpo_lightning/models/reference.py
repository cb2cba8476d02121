"""The reference of a run: a frozen copy, the policy without its adapter, or log-probabilities computed before.

All are called like a policy, and the module that holds one does not ask which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, Protocol, cast

import torch
from transformers import PreTrainedModel

from orpo_lightning.cache_folder import made_in_cache
from orpo_lightning.models.building import ModelBuilder
from orpo_lightning.models.identity import (
    architecture,
    base_settings,
    base_weights,
    fingerprint,
    fingerprint_on,
    settings_of,
)
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig, reference_policy
from orpo_lightning.models.logp_model import Layout, LogpModel
from orpo_lightning.models.pretrained import identity_of
from orpo_lightning.models.reference_cache import CachedReference, ReferenceRun, Scorer
from orpo_lightning.models.reference_store import ReferenceStore, remembered
from orpo_lightning.models.same_tokens import check_same_tokens
from orpo_lightning.models.work import ModelSize
from orpo_lightning.packing import PackedBatch
from orpo_lightning.ranks import fail_together
from orpo_lightning.records import ResponseLogps


class Reference(Scorer, Protocol):
    """What an objective compares the policy with."""

    @property
    def fingerprint(self) -> str:
        """Of the weights, as :func:`~orpo_lightning.models.identity.fingerprint` makes it; the same in every mode."""

    @property
    def size(self) -> ModelSize | None:
        """What of it costs work in each step; None where nothing does, or where it is not known."""

    def prepare(self, run: ReferenceRun) -> None:
        """Do what has to be done before the first batch of a run."""

    def policy_moves(self) -> None:
        """The policy's weights are no longer those it started from."""


class FrozenReference(LogpModel):
    """A model of its own, in eval mode for good.

    Args:
        net: the model.
        layout: as in :class:`LogpModel`.
        kernels: as in :class:`LogpModel`.
        base: fingerprint of what is below its adapter; None where it has none.
    """

    def __init__(
        self,
        net: PreTrainedModel,
        layout: Layout = "auto",
        kernels: Kernels = Kernels(),
        base: str | None = None,
    ) -> None:
        super().__init__(net, layout, kernels)
        self._base = base
        self.requires_grad_(False)
        self.eval()

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights."""
        return fingerprint_on(self._base, self.net)

    def train(self, mode: bool = True) -> FrozenReference:
        """Stay in eval mode."""
        super().train(False)
        return self

    def prepare(self, run: ReferenceRun) -> None:
        """Nothing: the model is there."""

    def policy_moves(self) -> None:
        """Nothing: the weights are its own."""


class PolicyInEvalMode:
    """The policy as the reference, for as long as it has its starting weights."""

    def __init__(self, policy: LogpModel) -> None:
        self._policy = policy

    @torch.no_grad()
    def __call__(self, batch: PackedBatch, prompt_logps: bool = False) -> ResponseLogps:
        """Score the responses of a batch."""
        with _evaluating(self._policy):
            return cast(ResponseLogps, self._policy(batch, prompt_logps=prompt_logps))


class AdapterOff:
    """The policy with its adapter switched off: the model that the adapter was put into, in eval mode."""

    def __init__(self, policy: LogpModel, fingerprint: str) -> None:
        self._policy = policy
        self.fingerprint = fingerprint
        self.size = policy.size

    @torch.no_grad()
    def __call__(self, batch: PackedBatch, prompt_logps: bool = False) -> ResponseLogps:
        """Score the responses of a batch."""
        net: Any = self._policy.net
        with _evaluating(self._policy), net.disable_adapter():
            return cast(ResponseLogps, self._policy(batch, prompt_logps=prompt_logps))

    def prepare(self, run: ReferenceRun) -> None:
        """Nothing: the weights are the policy's."""

    def policy_moves(self) -> None:
        """Nothing: what moves is the adapter."""


def reference_mode(reference: ReferenceConfig, policy: PolicyConfig) -> Literal["copy", "adapter", "cached"]:
    """What ``auto`` means for these models; an explicit mode is checked.

    Raises:
        ValueError: the policy without its adapter is not the reference that was asked for.

    Example:
        >>> from orpo_lightning.models.adapters import LoraConfig
        >>> reference_mode(ReferenceConfig(), PolicyConfig(lora=LoraConfig(r=8)))
        'adapter'
        >>> reference_mode(ReferenceConfig("tiny"), PolicyConfig(lora=LoraConfig(r=8)))
        'copy'
    """
    if reference.name_or_path is not None:
        obstacle = f"it names a model of its own, model.reference.name_or_path = {reference.name_or_path!r}"
    elif policy.lora.adapter is not None:
        obstacle = (
            f"training starts from the adapter in {policy.lora.adapter!r}, and the policy without it is not its "
            "starting point"
        )
    elif not policy.lora.is_used:
        obstacle = "the policy has no adapter to switch off (model.policy.lora.r = 0)"
    elif policy.load_in_4bit and reference.mode not in ("auto", "adapter"):
        raise ValueError(
            f"model.reference.mode = {reference.mode!r} has the weights as they are, but the policy starts from them "
            "in 4 bits (model.policy.load_in_4bit); accepted: auto, adapter"
        )
    else:
        return "adapter" if reference.mode == "auto" else reference.mode
    if reference.mode == "adapter":
        raise ValueError(f"model.reference.mode = 'adapter', but {obstacle}; accepted: auto, copy, cached")
    return "copy" if reference.mode == "auto" else reference.mode


def make_reference(
    config: ReferenceConfig, policy_config: PolicyConfig, policy: LogpModel, base: str | None, build: ModelBuilder
) -> Reference:
    """The reference of a run, from its configuration and the policy with its starting weights.

    Args:
        config: the reference.
        policy_config: the policy.
        policy: as it was loaded.
        base: fingerprint of what is below its adapter; None where it has none.
        build: what loads a model.

    Raises:
        ValueError: the reference does not share a tokenizer with the policy, or its mode does not fit the two.
    """
    fail_together(lambda: check_same_tokens(config, policy_config))
    mode = reference_mode(config, policy_config)

    def load() -> FrozenReference:
        loaded = reference_policy(config, policy_config)
        below = base if loaded.lora.is_used else None
        return build(loaded, lambda net: FrozenReference(net, policy.layout, policy.kernels, below))

    if mode == "copy":
        return load()
    if mode == "adapter":
        assert base is not None
        return AdapterOff(policy, base)
    return _cached(config, policy_config, policy, base, load)


def _cached(
    config: ReferenceConfig,
    policy_config: PolicyConfig,
    policy: LogpModel,
    base: str | None,
    load: Callable[[], FrozenReference],
) -> CachedReference:
    folder = fail_together(lambda: made_in_cache("reference"))
    # a fresh adapter changes nothing, and its base is that of every run without one
    is_fresh = policy_config.lora.is_fresh

    def weights() -> str:
        return fingerprint(base_weights(policy.net) if is_fresh else policy.net)

    live: Scorer | None = None
    name = config.name_or_path
    if name is not None:
        source = fail_together(lambda: identity_of(name, config.revision))
        identity = None if source is None else f"{source} {policy_config.dtype}"
        known, model = remembered(folder / "models", identity, lambda: _identify(load().net))
        found = known
    else:
        # by which the numbers are kept: devices that round weights to other 4 bits compute others
        known = weights()
        found = known if is_fresh else fingerprint_on(base, policy.net)
        model = architecture(base_settings(policy.net) if is_fresh else settings_of(policy.net))
        live = AdapterOff(policy, found) if is_fresh else PolicyInEvalMode(policy)
    dtype = policy.net.dtype

    def is_as_loaded() -> bool:
        # weights that the precision has rounded have another fingerprint
        return policy.net.dtype != dtype or weights() == known

    return CachedReference(
        fingerprint=found,
        store=lambda precision: ReferenceStore(folder / f"{known}-{model}-{precision}"),
        dtype=lambda: policy.net.dtype,
        live=live,
        moves=not is_fresh,
        is_as_loaded=is_as_loaded,
        load=load,
    )


def _identify(net: PreTrainedModel) -> tuple[str, str]:
    return fingerprint(net), architecture(settings_of(net))


@contextmanager
def _evaluating(model: LogpModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
