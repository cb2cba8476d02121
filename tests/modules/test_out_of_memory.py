"""A step that runs out of memory: what it held and what would fit, once, around the error that said so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import RowsData, TinyModule, run
from lightning import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

from orpo_lightning import ORPO, LoraConfig, OptimizerConfig, PolicyConfig
from orpo_lightning.device_memory import Memory
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.modules import out_of_memory
from orpo_lightning.modules.out_of_memory import StepOutOfMemoryError, is_out_of_memory
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

OF_CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB"
OF_CPU = "err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
ROOT = Path(__file__).parents[2]
advice = out_of_memory._advice
FOUR_BITS = PolicyConfig("tiny", load_in_4bit=True, lora=LoraConfig(r=4))


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logps):
        return logps.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError(OF_CUDA)


class GreedyORPO(ORPO):
    """Runs out of memory while it trains, or while it is measured, or backwards."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __call__(self, policy, reference=None):
        is_training = torch.is_grad_enabled()
        if self.where == ("forward" if is_training else "validation"):
            raise torch.OutOfMemoryError(OF_CUDA) if is_training else RuntimeError(OF_CPU)
        if self.where == "backward":
            policy = policy.replace(chosen=Fails.apply(policy.chosen))
        return super().__call__(policy, reference)


class GreedySGD(torch.optim.SGD):
    def step(self, closure=None):
        closure()
        raise torch.OutOfMemoryError(OF_CUDA)


@pytest.fixture(autouse=True)
def only_its_own_advice(monkeypatch, request):
    """What would fit is told by the last test, with a real limit; it takes seconds."""
    if "limit" not in request.node.name:
        monkeypatch.setattr("orpo_lightning.modules.out_of_memory._advice", lambda *_: "Advice")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("forward", "in the forward pass of step 0, which asked for 2.00 GiB"),
        ("backward", "in the backward pass of step 0, which asked for 2.00 GiB"),
        ("step", "while the optimizer took step 0, which asked for 2.00 GiB"),
        ("validation", "while it was measured, after 1 steps, which asked for 8 bytes"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_error_says_where_and_what_the_step_held(where, said, accumulate):
    optimizer = OptimizerConfig(algorithm=f"{GreedySGD.__module__}.GreedySGD") if where == "step" else OptimizerConfig()
    rows = make_rows(8)
    with pytest.raises(StepOutOfMemoryError) as caught:
        run(
            GreedyORPO(where),
            rows,
            rows[:3],
            module={"optimizer": optimizer},
            data={"global_batch_size": 8},
            accumulate_grad_batches=accumulate,
        )
    message, cause = str(caught.value), caught.value.__cause__
    assert message.startswith(f"memory ran out {said}. The micro-batch had ")
    assert message.count("memory ran out") == 1
    held = re.search(r"had ([\d,]+) tokens in (\d) rows; the longest of these, (made:\d), has (\d+)\.", message)
    assert held, message
    assert int(held[2]) == (8 // accumulate if where != "validation" else 3)
    assert "Weights in float32, precision 32-true, " in message
    assert message.endswith(f"{optimizer.optimizer_class.__name__}, SingleDeviceStrategy on cpu. Advice")
    assert str(cause) in (OF_CUDA, OF_CPU)


def test_another_error_is_left_as_it_is():
    class Broken(ORPO):
        def __call__(self, policy, reference=None):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(Broken(), make_rows(4), data={"global_batch_size": 4})


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError(OF_CPU), MemoryError(), RuntimeError(OF_CUDA)]
)
def test_memory_runs_out_in_more_than_one_way(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(StepOutOfMemoryError("said"))


# the advice, where an estimate cannot be made


def in_a_fit(policy, rows):
    """A module whose step has one micro-batch of these rows, and that micro-batch."""
    module, trainer = TinyModule(ORPO(), policy=policy), Trainer(accelerator="cpu", logger=False)
    module.configure_model()
    module.trainer, trainer.datamodule = trainer, RowsData(rows, global_batch_size=len(rows))
    out_of_memory._room[module] = 2**30
    return module, pack(rows, StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0))


def test_of_a_step_that_cannot_be_estimated_it_names_what_lowers_most(monkeypatch):
    monkeypatch.setattr(out_of_memory.Estimate, "of", lambda *_: (_ for _ in ()).throw(ValueError("no; others")))
    said = advice(*in_a_fit(FOUR_BITS, make_rows(8)))
    assert said == (
        "What would fit cannot be told (no): try "
        "--trainer.accumulate_grad_batches 2; or --model.policy.gradient_checkpointing true; or "
        "--trainer.precision bf16-mixed; or a lower data.max_length"
    )


@pytest.mark.slow
def test_of_weights_in_4_bits_it_names_what_fits():
    module, batch = in_a_fit(FOUR_BITS, make_rows(8))
    out_of_memory._room[module] = 6 * 2**20
    said = advice(module, batch)
    assert "cannot be told" not in said
    assert "--trainer.accumulate_grad_batches" in said


@pytest.mark.parametrize("policy", [FOUR_BITS, PolicyConfig()], ids=["4 bits", "fp32"])
def test_a_micro_batch_of_one_row_is_not_split_further(policy, monkeypatch):
    monkeypatch.setattr(out_of_memory.Estimate, "of", lambda *_: (_ for _ in ()).throw(ValueError("no; others")))
    said = advice(*in_a_fit(policy, make_rows(1)))
    assert said.startswith("What would fit cannot be told (no): try --model.policy.gradient_checkpointing true; or ")
    assert "accumulate" not in said


# the room that there was


def test_what_is_kept_in_the_host_is_no_room_of_the_device():
    module, _ = in_a_fit(PolicyConfig(), make_rows(1))
    there = sum(each.nbytes for each in [*module.parameters(), *module.buffers()])
    assert out_of_memory._held(module, "cpu") == there > 0
    (layer, *_) = module.policy.net.model.decoder.layers
    moved = sum(each.nbytes for each in layer.to("meta").parameters())
    assert out_of_memory._held(module, "cpu") == there - moved
    assert out_of_memory._held(module, "meta") == moved


def test_what_an_optimizer_keeps_counts_in_whatever_it_is():
    module, _ = in_a_fit(PolicyConfig(), make_rows(1))
    weight, before = next(module.parameters()), out_of_memory._held(module, "cpu")
    optimizer = torch.optim.SGD([weight])
    optimizer.state[weight] = {"moments": [torch.zeros(5), (torch.zeros(3),)], "step": 3}
    optimizer.state["all"] = torch.zeros(2)
    module.trainer.strategy.optimizers = [optimizer]
    assert out_of_memory._held(module, "cpu") == before + 4 * (5 + 3 + 2)


@pytest.mark.parametrize(("memory", "room"), [(Memory(12000, 9000), 9000), (Memory(12000, None), None), (None, None)])
def test_the_room_is_what_is_free_for_a_process_and_what_it_holds(monkeypatch, memory, room):
    module, _ = in_a_fit(PolicyConfig(), make_rows(1))
    monkeypatch.setattr(Trainer, "num_devices", 3)
    asked = []
    monkeypatch.setattr(out_of_memory, "memory_of", lambda *args: asked.append(args) or memory)
    found = out_of_memory._capacity(module)
    assert asked == [(torch.device("cpu"), 3)]
    assert found == (None if room is None else room + out_of_memory._held(module, "cpu"))


LIMIT = """
import re, resource
from pathlib import Path
from lightning.pytorch.callbacks import Callback

class Limit(Callback):
    def on_train_start(self, trainer, module):
        size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + 420 * 2**20, resource.RLIM_INFINITY))
"""
OPTIONS = [
    *("fit", "--config=orpo", "--model.policy.name_or_path=model", "--data.val=null", "--trainer.max_steps=1"),
    *("--trainer.callbacks=limit.Limit", "--trainer.enable_checkpointing=false", "--summary.prompts=0"),
    *("--export.enabled=false", "--trainer.enable_progress_bar=false", "--throughput.peak_tflops=1"),
]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of a process is that of Linux")
def test_under_a_real_limit_the_setting_that_it_names_fits(tmp_path):
    (tmp_path / "limit.py").write_text(LIMIT)
    tokenizer = load_tokenizer("tiny")
    tokenizer.save_pretrained(tmp_path / "model")
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 12, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "model")

    def fit(*options):
        return subprocess.run(
            [sys.executable, "-m", "orpo_lightning", *OPTIONS, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "MALLOC_ARENA_MAX": "1"},
            capture_output=True,
            text=True,
            timeout=400,
        )

    failed = fit()
    assert failed.returncode == 1, failed.stderr
    (said,) = (line for line in failed.stderr.splitlines() if line.startswith("orpo-lightning: "))
    assert "Traceback" not in failed.stderr
    assert re.search(r"memory ran out in the \w+ pass of step 0, which asked for \d+ bytes", said), said
    assert " tokens in 8 rows; the longest of these, sample/train:" in said
    setting = re.search(r"What would fit: (--trainer\.accumulate_grad_batches \d+) \(", said)
    assert setting, said
    again = fit(*setting[1].split())
    assert again.returncode == 0, again.stderr
