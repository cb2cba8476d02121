"""FSDP1 runs on GPUs alone; what it refuses, it refuses anywhere."""

import pytest
import torch
from lightning import LightningModule
from torch import nn

from orpo_lightning.strategies import FSDP1Strategy


@pytest.mark.parametrize("kind", ["NO_SHARD", "HYBRID_SHARD", "SHARD_GRAD_OP"])
def test_copies_of_parts_are_refused_as_the_norm_of_gradients_would_count_each(kind):
    strategy = FSDP1Strategy(sharding_strategy=kind, device_mesh=(1, 1) if kind == "HYBRID_SHARD" else None)
    with pytest.raises(ValueError, match=f"sharding_strategy = {kind}; accepted: FULL_SHARD"):
        strategy.setup_environment()


class Module(LightningModule):
    """A policy of which one layer is trained, and another one that is not trained at all."""

    def __init__(self):
        super().__init__()
        self.policy = nn.ModuleDict({"frozen": nn.Linear(2, 2).requires_grad_(False), "trained": nn.Linear(2, 2)})
        self.reference = nn.Linear(2, 2).requires_grad_(False)


TRAINED = ["policy.trained.weight", "policy.trained.bias"]
FROZEN = ["policy.frozen.weight", "policy.frozen.bias", "reference.weight", "reference.bias"]


def load(*names):
    """Load weights of sevens, in one process, where none is shared out; the state after it."""
    strategy, module = FSDP1Strategy(), Module()
    strategy.connect(module)
    shapes = {name: each.shape for name, each in module.state_dict().items()}
    strategy.load_model_state_dict(
        {"state_dict": {name: torch.full(shapes.get(name, (2,)), 7.0) for name in names}}, strict=True
    )
    return {name for name, each in module.state_dict().items() if (each == 7).all()}


def test_the_weights_that_are_trained_are_loaded_whether_the_frozen_ones_are_there_or_not():
    assert load(*TRAINED) == {*TRAINED}
    assert load(*TRAINED, *FROZEN) == {*TRAINED}


def test_weights_that_are_missing_or_too_many_are_named():
    with pytest.raises(ValueError, match=r"another model: it lacks 1 of its weights \(policy\.trained\.bias\)$"):
        load(TRAINED[0])
    with pytest.raises(ValueError, match=r"another model: it has 1 too many \(policy\.gate\)$"):
        load(*TRAINED, "policy.gate")
    with pytest.raises(ValueError, match=r"lacks 1 .*bias\), and has 4 too many \(a, b, c, \.\.\.\)$"):
        load(TRAINED[0], *"abcd")
