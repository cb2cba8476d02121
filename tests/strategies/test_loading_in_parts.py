"""A model that is shared out is never whole in one process, not even while it is read."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from helpers import leave_together, run_on_two_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM

from orpo_lightning.models.loading import PolicyConfig, load_causal_lm, read_in_parts
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.sharding import ShardedBuilder

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 8}
IN_ONE_THREAD = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}
"""Operations are counted in one thread alone."""


class Alive(TorchDispatchMode):
    """Keeps the largest sum of the bytes that operations have made in this process and that are there at once.

    Of a tensor that is shared out that is the part of this process; one on the meta device has no bytes, and neither
    has one that lies in a file.
    """

    def __init__(self):
        super().__init__()
        self.there, self.largest = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in storages_of((args, kwargs)):
            self._note(storage, 0)
        made = func(*args, **(kwargs or {}))
        for storage in storages_of(made):
            self._note(storage, storage.nbytes())
        self.largest = max(self.largest, sum(self.there.values()))
        return made

    def _note(self, storage, size):
        if id(storage) not in self.there:
            weakref.finalize(storage, self.there.pop, id(storage), None)
            self.there[id(storage)] = size


def storages_of(tree):
    tensors = (each for each in tree_iter(tree) if isinstance(each, torch.Tensor) and each.device.type != "meta")
    return [(each._local_tensor if isinstance(each, DTensor) else each).untyped_storage() for each in tensors]


def bytes_of(tensors):
    return sum(each.nbytes for each in tensors)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model of eight layers in fp32, none of whose weights is a tenth of it, and its bytes in fp64."""
    folder = tmp_path_factory.mktemp("model")
    net = LlamaForCausalLM(LlamaConfig(vocab_size=400, **SHAPE))
    net.save_pretrained(folder)
    assert max(each.nbytes for each in net.parameters()) < 0.1 * bytes_of(net.parameters())
    return folder, 2 * bytes_of(net.parameters())


@pytest.fixture(scope="module")
def largest(model):
    """The most that was there in each of two processes, by what they did."""
    folder, _ = model
    run_on_two_ranks(__file__, folder, **IN_ONE_THREAD)
    return [json.loads((folder / f"largest-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["read", "built"])
def test_a_process_never_has_more_than_its_half_and_a_few_weights(model, largest, what):
    _, whole = model
    for found in largest:
        assert 0.5 * whole <= found[what] < 0.75 * whole


def test_a_model_that_is_read_whole_is_noticed(model, monkeypatch):
    folder, whole = model
    monkeypatch.setenv(*next(iter(IN_ONE_THREAD.items())))
    with Alive() as alive:
        load_causal_lm(PolicyConfig(str(folder), dtype="float64"))
    assert alive.largest >= whole


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    policy = PolicyConfig(str(folder), dtype="float64")  # which has to be made of what is in the file
    builder = ShardedBuilder(init_device_mesh("cpu", (2,)))
    ways = {"read": lambda: read_in_parts(policy, 2), "built": lambda: builder(policy, LogpModel)}
    found = {}
    for what, way in ways.items():
        with Alive() as alive:
            way()
        found[what] = alive.largest
    (folder / f"largest-{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
    leave_together()
