"""FSDP1 runs on GPUs alone; what it refuses, it refuses anywhere."""

import pytest

from orpo_lightning.strategies import FSDP1Strategy


@pytest.mark.parametrize("kind", ["NO_SHARD", "HYBRID_SHARD", "SHARD_GRAD_OP"])
def test_copies_of_parts_are_refused_as_the_norm_of_gradients_would_count_each(kind):
    strategy = FSDP1Strategy(sharding_strategy=kind, device_mesh=(1, 1) if kind == "HYBRID_SHARD" else None)
    with pytest.raises(ValueError, match=f"sharding_strategy = {kind}; accepted: FULL_SHARD"):
        strategy.setup_environment()
