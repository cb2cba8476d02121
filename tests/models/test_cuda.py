"""The kernels of the packed layout on a GPU: the numbers of the blocks, nothing that waits, nothing compiled twice.

Nobody has run these yet.
"""

import itertools
import os
import warnings

import pytest
import torch
from attention_cases import STREAMS, assert_close, states, stream, value_and_gradients
from helpers import run
from lightning.pytorch.callbacks import Callback
from torch._dynamo.utils import counters

from orpo_lightning import DPO, ORPO, ReferenceConfig
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.check import disagreement
from orpo_lightning.models.attention.choice import KERNELS, KernelWarning, kernel_for
from orpo_lightning.models.attention.segments import AttentionCall
from orpo_lightning.models.head_kernels import head_kernel, liger_logps
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.linear_logps import linear_logps
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.reference_cache import CachedReference
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA here")

GPU = torch.device("cuda", 0)
BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
TOLERANCE = {BF16: 2e-2, FP16: 4e-3, FP32: 1e-5, FP64: 1e-12}
STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)
SHAPE = "llama with heads of 32"


@pytest.fixture(autouse=True)
def heads_that_every_kernel_takes(monkeypatch):
    monkeypatch.setitem(SHAPES, SHAPE, ("llama", {**SHAPES["llama"][1], "head_dim": 32}))
    # torch looks at it when it first multiplies matrices
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def call(dtype, size=32, heads=4, key_heads=2):
    return AttentionCall(GPU, dtype, heads, key_heads, size, size)


def model_of(name, dtype=FP32):
    net = tiny_model(SHAPE, dtype).to(GPU)
    return LogpModel(net, "packed", Kernels(name))


def skip_where_it_cannot(name, dtype, size=32):
    if reason := KERNELS[name].obstacle(call(dtype, size)):
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("size", [16, 32, 64, 80, 128])
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32, FP64], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_values_and_gradients_are_those_of_the_blocks_on_a_cpu(name, dtype, size):
    skip_where_it_cannot(name, dtype, size)
    for groups, key_heads in itertools.product(STREAMS.values(), (4, 2, 1)):
        exact = states(groups, 4, key_heads, size)
        rounded = [each.detach().to(dtype).to(FP64).requires_grad_() for each in exact]
        expected = value_and_gradients(BlockAttention, groups, rounded)
        found = value_and_gradients(KERNELS[name], groups, states(groups, 4, key_heads, size, dtype, GPU))
        assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_the_check_trusts_it(name, dtype):
    skip_where_it_cannot(name, dtype)
    assert disagreement(KERNELS[name], call(dtype)) is None


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32, FP64], ids=str)
def test_auto_takes_the_first_that_can_and_needs_no_other(dtype):
    kernel_for.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelWarning)
        chosen = kernel_for("auto", call(dtype))
    assert chosen is next(kernel for kernel in KERNELS.values() if kernel.obstacle(call(dtype)) is None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "bf16 by autocast"])
@pytest.mark.parametrize("name", ["auto", *KERNELS])
def test_a_whole_model_gives_the_numbers_of_the_cpu(name, precision):
    autocast = precision.endswith("autocast")
    dtype = FP32 if autocast else getattr(torch, precision)
    if name != "auto":
        skip_where_it_cannot(name, BF16 if autocast else dtype)
    batch = pack([*make_rows(6, longest=80, seed=1), *make_rows(3, longest=2)], STEP)

    def value_and_gradient(model, batch):
        with torch.autocast("cuda", BF16, enabled=autocast and batch.input_ids.is_cuda):
            table = model(batch, prompt_logps=True)
        (table.logps.sum() - 0.3 * table.prompt_logps.sum()).backward()
        gradient = torch.cat([p.grad.flatten().double() for p in model.net.parameters() if p.grad is not None])
        return [torch.cat([table.logps, table.prompt_logps]).detach(), gradient]

    expected = value_and_gradient(LogpModel(tiny_model(SHAPE), "packed"), batch)
    found = value_and_gradient(model_of(name, dtype), batch.to(GPU))
    # of whole models, whose weights are rounded too
    assert_close(found, expected, {BF16: 5e-2, FP16: 1e-2, FP32: 1e-4}[BF16 if autocast else dtype])


def test_in_mixed_precision_the_check_of_the_layout_runs_although_the_weights_are_in_fp32():
    skip_where_it_cannot("varlen", BF16)
    model = model_of("varlen")
    with torch.autocast("cuda", BF16):
        model(pack(make_rows(2), STEP).to(GPU))
    assert model._route == model._packed


def test_a_run_in_fp32_refuses_the_kernel_that_cannot():
    with pytest.raises(ValueError, match=r"attention_kernel = 'varlen', but .*float32"):
        model_of("varlen")(pack(make_rows(2), STEP).to(GPU))


@pytest.mark.parametrize("name", ["flex", "varlen"])
def test_it_gives_the_same_bits_twice_where_determinism_is_asked_for(name, deterministic):
    skip_where_it_cannot(name, BF16)
    groups = stream(*[(200, 150, 180, 20)] * 4)
    inputs = states(groups, 8, 2, 64, BF16, GPU)
    first, second = (value_and_gradients(KERNELS[name], groups, inputs) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_flex_is_compiled_once_for_the_check_and_training_batches_of_any_size():
    skip_where_it_cannot("flex", BF16)
    torch._dynamo.reset()
    disagreement.cache_clear()
    before = counters["stats"]["unique_graphs"]
    for rows in [(150, 90, 60)], [(7, 300)], [(3, 1, 2)], [(100, 20, 8)], [(200, 56, 0)], [(5, 4, 3, 2)] * 60:
        groups = stream(*rows)
        value_and_gradients(KERNELS["flex"], groups, states(groups, 4, 2, 32, BF16, GPU))
    assert disagreement(KERNELS["flex"], call(BF16)) is None
    assert counters["stats"]["unique_graphs"] == before + 1


def test_flex_is_compiled_once_for_each_of_training_validation_and_reference():
    skip_where_it_cannot("flex", BF16)
    torch._dynamo.reset()
    kernel_for.cache_clear()
    disagreement.cache_clear()
    model = model_of("flex", BF16)
    before = counters["stats"]["unique_graphs"]
    for count in (5, 9, 40):
        batch = pack(make_rows(count, longest=40, seed=count), STEP).to(GPU)
        model(batch).logps.sum().backward()
        with torch.no_grad():
            model(batch)
        with torch.inference_mode():
            model(batch)
    assert counters["stats"]["unique_graphs"] == before + 3


@pytest.fixture
def waiting_is_an_error():
    def begin():
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    yield begin
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_step_never_waits_for_the_device(name, recompute, waiting_is_an_error):
    skip_where_it_cannot(name, BF16)
    model = model_of(name, BF16).train()
    if recompute:
        model.net.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def step(batch):
        table = model(batch.to(GPU), prompt_logps=True)
        (table.logps.sum() - table.prompt_logps.sum()).backward()

    batches = [pack(make_rows(count, longest=40, seed=count), STEP).pin_memory() for count in (5, 9, 7)]
    step(batches[0])  # the checks and the compilation wait
    step(batches[1])
    waiting_is_an_error()
    step(batches[2])


class WaitsAreTold(Callback):
    """Has torch warn of each wait within a micro-batch, from the third step on: the checks of the first may wait."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step >= 2:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("objective", [ORPO(), DPO()], ids=["ORPO", "DPO"])
def test_a_step_of_a_run_waits_once_for_loss_and_norm_together(objective, accumulate):
    options = {"module": {"shape": SHAPE, "dtype": FP32, "reference": ReferenceConfig()}, "accelerator": "gpu"}
    options |= {"callbacks": [Throughput(), WaitsAreTold()], "accumulate_grad_batches": accumulate}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = run(objective, devices=1, precision="bf16-mixed", **options)
    waits = [each for each in told if "synchronizing CUDA operation" in str(each.message)]
    assert len(waits) == found.trainer.global_step - 2


def test_looking_up_a_cached_reference_does_not_wait(waiting_is_an_error):
    batch = pack(make_rows(3), STEP)
    cached = CachedReference("", None, lambda: BF16, None, False, lambda: True, None)
    cached._values = {key: -1.0 for key in (*batch.keys, *batch.prompt_keys)}
    on_device = batch.pin_memory().to(GPU)
    waiting_is_an_error()
    cached(on_device, prompt_logps=True)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("objective", [ORPO(), DPO()], ids=["ORPO", "DPO"])
def test_a_run_on_a_gpu_logs_what_one_on_a_cpu_does(objective, precision):
    options = {"module": {"shape": SHAPE, "dtype": FP32, "reference": ReferenceConfig()}, "max_epochs": 1}
    expected = run(objective, validation=make_rows(4, seed=9), **options)
    found = run(
        objective, validation=make_rows(4, seed=9), accelerator="gpu", devices=1, precision=precision, **options
    )
    tolerance = 1e-3 if precision.startswith("32") else 5e-2
    for (step, values), (_, wanted) in zip(found.history, expected.history, strict=True):
        for name in {"train/loss", "val/loss", "val/nll_response"} & values.keys():
            assert values[name] == pytest.approx(wanted[name], rel=tolerance), f"{name} of step {step}"


def test_a_run_in_fp16_ends_with_finite_weights():
    found = run(ORPO(), module={"shape": SHAPE, "dtype": FP32}, accelerator="gpu", devices=1, precision="16-mixed")
    assert found.weights.isfinite().all()


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_ligers_head_gives_the_numbers_of_the_blocks(dtype):
    pytest.importorskip("triton")
    pytest.importorskip("liger_kernel")
    assert head_kernel("liger", GPU, dtype) is liger_logps  # which is held against the blocks on the way


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_the_blocks_of_logits_are_those_of_a_cpu(dtype):
    torch.manual_seed(0)
    hidden, weight, targets, upstream = (
        *(torch.randn(n, 64, dtype=FP64) for n in (300, 70_000)),
        torch.randint(0, 70_000, (300,)),
        torch.randn(300, dtype=FP64),
    )

    def value_and_gradients(device, dtype):
        inputs = [each.to(device, dtype).requires_grad_() for each in (hidden, weight)]
        logps = linear_logps(*inputs, None, targets.to(device))
        return [logps, *torch.autograd.grad(logps, inputs, upstream.to(device, logps.dtype))]

    pairs = zip(value_and_gradients(GPU, dtype), value_and_gradients("cpu", FP64), strict=True)
    for found, expected in pairs:
        assert (found.double().cpu() - expected).norm() <= (0.03 if dtype is BF16 else 1e-3) * expected.norm()
