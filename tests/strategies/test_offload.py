"""What `cpu_offload` has to have on GPUs, as far as that can be told without one: it was never run."""

import json
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from helpers import run_on_two_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from orpo_lightning.models.sharding import ShardedBuilder
from orpo_lightning.strategies import FSDP2Strategy


def backend_of(device, **arguments):
    """What processes would be joined by."""
    strategy = FSDP2Strategy(**arguments)
    strategy.parallel_devices = [torch.device(device)]
    strategy.cluster_environment = SimpleNamespace(
        **{name: lambda: 0 for name in ("local_rank", "node_rank", "global_rank")},
        **{name: lambda size=None: size for name in ("set_global_rank", "set_world_size")},
    )
    strategy.accelerator = SimpleNamespace(setup_device=lambda device: None)
    joined = []

    def join(backend, **others):
        joined.append(backend)
        raise ConnectionAbortedError

    with (
        patch("lightning.pytorch.strategies.model_parallel._init_dist_connection", lambda of, *how, **_: join(*how)),
        pytest.raises(ConnectionAbortedError),
    ):
        strategy.setup_environment()
    return joined[0]


@pytest.mark.parametrize(
    ("device", "arguments", "backend"),
    [
        ("cuda:0", {"cpu_offload": True}, "cpu:gloo,cuda:nccl"),
        ("cuda:0", {}, "nccl"),
        ("cpu", {"cpu_offload": True}, "gloo"),
        ("cpu", {}, "gloo"),
        ("cuda:0", {"cpu_offload": True, "process_group_backend": "cpu:gloo,cuda:gloo"}, "cpu:gloo,cuda:gloo"),
        ("cuda:0", {"cpu_offload": True, "process_group_backend": "gloo"}, "gloo"),
        ("cuda:0", {"process_group_backend": "nccl"}, "nccl"),
    ],
)
def test_gradients_on_the_host_are_sent_from_there_and_what_was_asked_for_stays(device, arguments, backend):
    assert backend_of(device, **arguments) == backend


def test_a_backend_that_sends_nothing_from_the_host_is_refused():
    with pytest.raises(
        ValueError, match=r"process_group_backend = 'nccl' sends nothing .*; accepted: null, or one for"
    ):
        backend_of("cuda:0", cpu_offload=True, process_group_backend="nccl")


def on_the_host(mesh, whole):
    """A tensor that processes with GPUs share out, each part in the memory of the host."""
    shape = torch.empty(len(whole) // mesh.size(), *whole.shape[1:], dtype=whole.dtype, device="meta")
    shared_out = torch.empty_like(DTensor.from_local(shape, mesh, [Shard(0)], run_check=False), device="cpu")
    shared_out.to_local().copy_(whole.chunk(mesh.size())[mesh.get_local_rank()])
    return shared_out


@pytest.mark.slow
def test_parts_on_the_hosts_are_put_together_with_that_backend_and_not_with_that_of_gpus_alone(tmp_path):
    run_on_two_ranks(__file__, tmp_path)
    for rank in "01":
        said = json.loads((tmp_path / f"said-{rank}.json").read_text())
        assert said["cpu:gloo,cuda:gloo"] == [pytest.approx(506**0.5), list(range(12))]  # 0 + 1 + 4 + ... + 121
        assert "No backend type associated with device type cpu" in said["cuda:gloo"]


@pytest.fixture
def gpus():
    """A mesh of one process with a GPU, which is not there: nothing can be put on it."""
    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield init_device_mesh("cuda", (1,))
    torch.distributed.destroy_process_group()


def test_weights_are_on_the_host_from_the_start(gpus):
    with torch.device("meta"):
        model = torch.nn.Sequential(OrderedDict(net=torch.nn.Linear(4, 3, dtype=torch.float64)))
    for name, weight in list(model.net.named_parameters()):  # as torch shares out what has no memory yet
        whole = DTensor.from_local(weight.detach(), gpus, [Shard(0)], run_check=False)
        setattr(model.net, name, torch.nn.Parameter(whole))
    read = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.arange(3.0)}
    ShardedBuilder(gpus, offload=True)._fill(model, dict(read), {name: name for name in read})
    for name, weight in model.net.named_parameters():
        assert isinstance(weight, DTensor)
        assert weight.device.type == "cpu"
        assert weight.dtype is torch.float64
        assert torch.equal(weight.to_local(), read[name].double())


def main(folder: Path) -> None:
    """GPUs are made up: gloo takes the place of nccl, and nothing is ever put there."""
    said = {}
    for backend in ("cpu:gloo,cuda:gloo", "cuda:gloo"):
        torch.distributed.init_process_group(backend)
        rank = torch.distributed.get_rank()
        with patch.object(torch.cuda, "set_device", lambda device: None):
            whole = on_the_host(init_device_mesh("cuda", (2,)), torch.arange(12.0).reshape(4, 3))
        try:
            norm = FSDP2Strategy().gradient_norm([whole]).item()
            said[backend] = [norm, whole.full_tensor().flatten().tolist()]
        except RuntimeError as error:
            said[backend] = str(error)
        torch.distributed.destroy_process_group()
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
