"""The packed batch on a GPU: right to rounding, and how fast, against padded rows.

    python benchmarks/gpu.py            # a Llama of 1.2 billion random weights, bf16
    python benchmarks/gpu.py --small    # a small one, also without a GPU: minutes, to see that the command works

First each way of taking a step is held against fp64 on the CPU, in value and in the gradient of each parameter. One
that differs beyond rounding is not measured, and the command ends with an error. Then steps of ORPO and DPO are timed
at lengths shaped like those of hh_rlhf (long prompts, short answers) and of gpt4_pairs (the reverse), and at 8,192
tokens a pair: padded rows with all logits, at the largest micro-batch that the memory holds, and the packed batch by
each kernel and with compiled layers. --shape and --objective take one of them at a time, for a machine that is there
for minutes.

Random weights take the time of trained ones. TRL is not beside them: against_trl.py has it, and its environment could
not be brought along. No GPU was at hand so far: nothing here has run on one.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from yardstick.environment import conditions
from yardstick.measures import peak_memory, spread, synchronize
from yardstick.rungs import OBJECTIVES, Step, as_a_run, train

from orpo_lightning import Objective
from orpo_lightning.callbacks.peak_rate import peak_rate
from orpo_lightning.data.batching import step_info
from orpo_lightning.models.attention.choice import KERNELS
from orpo_lightning.models.attention.segments import AttentionCall
from orpo_lightning.models.compilation import compile_layers
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.work import Counts
from orpo_lightning.packing import pack
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow

CUDA = torch.cuda.is_available()
CPU = torch.device("cpu")
DEVICE = torch.device("cuda") if CUDA else CPU
NO_MEMORY = "out of memory with one pair | | | | |"
LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
"""The shape of Llama-3.2-1B."""
SMALL = {
    **LLAMA_1B,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
}
CHECKED = {**SMALL, "initializer_range": 0.06}
"""Products keep the size of what goes in. At the usual 0.02 attention looks everywhere alike, so that queries and keys
hardly matter; at 0.2 it looks at a token each, and rounding to bf16 alone moves the gradient by 23%."""


@dataclass(frozen=True)
class Shape:
    """Lengths of pairs, log-normal around their means.

    Args:
        prompt: mean tokens of the prompts.
        chosen: of the chosen responses.
        rejected: of the rejected ones.
        spread: standard deviation of the logarithm; 0 makes all pairs alike.
        pairs: of a step.
    """

    prompt: int
    chosen: int
    rejected: int
    spread: float
    pairs: int

    def rows(self, pairs: int, vocabulary: int, seed: int) -> list[TokenizedRow]:
        """Random pairs of these lengths."""
        drawn = random.Random(seed)

        def tokens(mean: int) -> tuple[int, ...]:
            length = max(2, round(drawn.lognormvariate(math.log(mean) - self.spread**2 / 2, self.spread)))
            return tuple(drawn.randrange(vocabulary) for _ in range(min(length, 4 * mean)))

        return [
            TokenizedRow(
                f"random:{i}",
                tokens(self.prompt),
                (
                    TokenizedResponse(tokens(self.chosen), Role.CHOSEN),
                    TokenizedResponse(tokens(self.rejected), Role.REJECTED),
                ),
            )
            for i in range(pairs)
        ]


SHAPES = {
    "hh_rlhf": Shape(124, 41, 51, 0.8, pairs=128),
    "gpt4_pairs": Shape(66, 280, 130, 0.7, pairs=64),
    "8k_a_pair": Shape(2048, 3072, 3072, 0.0, pairs=4),
}


@dataclass(frozen=True)
class Way:
    """A way to take a step.

    Args:
        name: for the table.
        layout: of the policy.
        kernel: of the packed attention.
        head: kernel of the head.
        compiled: whether the layers are.
    """

    name: str
    layout: str
    kernel: str = "auto"
    head: str = "blocks"
    compiled: bool = False


Scores = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Log-probabilities, and the gradient of each parameter."""


@dataclass(frozen=True)
class Errors:
    """How far a way is from exact numbers, relative, of norms.

    Args:
        logps: of the log-probabilities.
        gradient: of the gradient of the parameter where it is furthest.
        parameter: which that is.
    """

    logps: float
    gradient: float
    parameter: str = ""

    @classmethod
    def of(cls, found: Scores, exact: Scores) -> Errors:
        """Those of one against the other."""
        (logps, gradients), (exact_logps, exact_gradients) = found, exact
        if missing := exact_gradients.keys() ^ gradients.keys():
            return cls(math.nan, math.nan, f"{len(missing)} parameters on one side only, such as {min(missing)}")
        # of a gradient that is next to nothing beside the others all may be rounding
        least = SMALLEST_SHARE * math.hypot(*(float(each.norm()) for each in exact_gradients.values()))
        errors = {
            name: float((gradients[name] - each).norm()) / max(float(each.norm()), least)
            for name, each in exact_gradients.items()
        }
        # NaN is not larger than anything
        furthest = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
        return cls(float((logps - exact_logps).norm() / exact_logps.norm()), errors[furthest], furthest)

    def __str__(self) -> str:
        return f"{self.logps:.1e} | {self.gradient:.1e} | {self.parameter}"


LARGEST_ERRORS = {torch.float32: Errors(1e-4, 1e-3), torch.bfloat16: Errors(1e-3, 6e-2)}
"""Rounding gives half of it at most (on a CPU), a scale of attention that is wrong by 5% twice of it or more."""
SMALLEST_SHARE = 1e-3
"""Of the norm of the whole gradient: the least that an error of a parameter's gradient is taken relative to."""


def main() -> None:
    """Check, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, and few pairs a step")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--peak-tflops", type=float, help="of the device; default: what products of matrices reach")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="one of the shapes alone")
    parser.add_argument("--objective", choices=OBJECTIVES, action="append", help="one of the objectives alone")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    config = SMALL if options.small else LLAMA_1B
    dtype = torch.bfloat16 if CUDA else torch.float32
    peak = options.peak_tflops * 1e12 if options.peak_tflops else peak_rate(DEVICE, dtype)
    print(conditions())
    print(f"{dtype}, {peak / 1e12:,.1f} * 10^12 operations per second at best\n")
    wrong = check()
    padded, *packed = ways(dtype)
    if padded.name in wrong:
        raise SystemExit(f"beyond rounding: {wrong[padded.name]}")
    for name in options.shape or SHAPES:
        for objective in options.objective or OBJECTIVES:
            pairs = max(1, SHAPES[name].pairs // 32) if options.small else SHAPES[name].pairs
            bench = Bench(SHAPES[name], OBJECTIVES[objective](), pairs, config, dtype, peak, options.steps)
            print(f"### {name}, {objective}, {pairs} pairs a step\n")
            compare(bench, padded, [way for way in packed if way.name not in wrong])
    if wrong:
        raise SystemExit(f"beyond rounding: {'; '.join(wrong.values())}")


def compare(bench: Bench, padded: Way, packed: Iterable[Way]) -> None:
    """Print the table of a shape and an objective, and what the goals were."""
    print("| | pairs/s | tokens/s | MFU | peak memory, GB | step, s | pairs per micro-batch |")
    print("|---|---|---|---|---|---|---|")
    baseline = bench.measured(padded)
    print(f"| {padded.name} | {baseline or NO_MEMORY} |", flush=True)
    found = {}
    for way in packed:
        found[way] = bench.measured(way)
        print(f"| {way.name} | {found[way] or NO_MEMORY} |", flush=True)
    ran = {way: each for way, each in found.items() if each}
    if not (baseline and ran):
        print(flush=True)
        return
    fastest = max(ran, key=lambda way: ran[way].pairs_per_s)
    best = alike = ran[fastest]
    if best.micro_batch != baseline.micro_batch:  # to compare the memory
        alike = bench.measured(fastest, baseline.micro_batch) or best
        print(f"| {fastest.name}, in micro-batches as the padded rows | {alike} |")
    print(f"\n{fastest.name}: MFU {best.mfu:.0%} (goal: 50%)")
    print(f"pairs/s of padded rows: {best.pairs_per_s / baseline.pairs_per_s:.2f} times (goal: 2)")
    if CUDA:  # elsewhere the peak is that of the process since it began
        print(f"memory of padded rows in the same micro-batches: {alike.peak_gb / baseline.peak_gb:.2f} (goal: 0.5)")
    print(flush=True)


def check(dtypes: Iterable[torch.dtype] = tuple(LARGEST_ERRORS)) -> dict[str, str]:
    """Hold every way that is measured against fp64 on the CPU, by a model of the small shape.

    Args:
        dtypes: of the weights.

    Returns:
        The ways that differ by more than rounding, and by how much.
    """
    print("| way | dtype | error of the log-probabilities | largest of a parameter's gradient | that of |")
    print("|---|---|---|---|---|")
    rows = Shape(90, 60, 60, 0.8, 6).rows(6, CHECKED["vocab_size"], seed=1)
    exact = _scores(_model(CHECKED, torch.float64, CPU), Way("exact", "packed", "blocks"), rows)
    wrong: dict[str, str] = {}
    for dtype in dtypes:
        largest = LARGEST_ERRORS[dtype]
        for way in ways(dtype):
            errors = Errors.of(_scores(_model(CHECKED, dtype, DEVICE), way, rows), exact)
            print(f"| {way.name} | {str(dtype).removeprefix('torch.')} | {errors} |")
            if not (errors.logps <= largest.logps and errors.gradient <= largest.gradient):
                wrong[way.name] = f"{way.name} in {dtype}: {errors}"
    print(flush=True)
    torch._dynamo.reset()  # torch compiles a function a few times only, and measuring has a right to all of them
    return wrong


def _scores(net: PreTrainedModel, way: Way, rows: list[TokenizedRow]) -> Scores:
    batch = pack(rows, step_info(rows)).to(net.device)
    table = _made(net, way)(batch, prompt_logps=True)
    assert table.prompt_logps is not None
    logps = torch.cat([table.logps, table.prompt_logps])
    (logps * torch.linspace(0.5, 1.5, len(logps), device=logps.device)).sum().backward()
    gradients = {name: each.grad.double().cpu() for name, each in net.named_parameters() if each.grad is not None}
    return logps.detach().double().cpu(), gradients


def _made(net: PreTrainedModel, way: Way) -> LogpModel:
    if way.compiled:
        compile_layers(net)
    return LogpModel(net, way.layout, Kernels(way.kernel, way.head))


def _model(
    config: dict[str, Any], dtype: torch.dtype, device: torch.device, drawn_on: torch.device = CPU
) -> PreTrainedModel:
    torch.manual_seed(0)  # drawn on the CPU all have the same weights, and wait for them
    with drawn_on:
        net: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **config))
    for parameter in net.parameters():  # not what is no weight: a model that is loaded keeps its rotations in fp32
        parameter.data = parameter.data.to(dtype)
    return net.to(device).train()


def _kernels(dtype: torch.dtype, config: dict[str, Any]) -> list[str]:
    call = AttentionCall(
        DEVICE,
        dtype,
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
        config["head_dim"],
    )
    return [name for name, kernel in KERNELS.items() if kernel.obstacle(call) is None]


def ways(dtype: torch.dtype) -> Iterator[Way]:
    """The padded baseline, then the packed batch by each kernel that runs here, alone and compiled."""
    yield Way("padded rows, all logits", "padded")
    for kernel in reversed(_kernels(dtype, LLAMA_1B)):
        yield Way(f"packed, {kernel}", "packed", kernel)
        yield Way(f"packed, {kernel}, compiled", "packed", kernel, compiled=True)
    if CUDA and find_spec("liger_kernel") and find_spec("triton"):
        yield Way("packed, liger's head", "packed", head="liger")


@dataclass(frozen=True)
class Measured:
    """A line of the table.

    Args:
        pairs_per_s: of the median step.
        tokens_per_s: of all steps.
        mfu: share of the device's rate in operations that are needed.
        peak_gb: largest memory, in 10^9 bytes.
        seconds: of each step.
        micro_batch: pairs of one.
    """

    pairs_per_s: float
    tokens_per_s: float
    mfu: float
    peak_gb: float
    seconds: tuple[float, ...]
    micro_batch: int

    def __str__(self) -> str:
        return (
            f"{self.pairs_per_s:,.1f} | {self.tokens_per_s:,.0f} | {self.mfu:.1%} | {self.peak_gb:.2f} | "
            f"{spread(self.seconds, '.3f')} | {self.micro_batch}"
        )


@dataclass(frozen=True)
class Bench:
    """Steps of an objective on pairs of a shape.

    Args:
        shape: of the pairs.
        objective: by which a model is trained.
        pairs: of a step.
        config: of the model.
        dtype: of its weights.
        peak: floating-point operations per second that the device can do.
        steps: that are timed.
    """

    shape: Shape
    objective: Objective
    pairs: int
    config: dict[str, Any]
    dtype: torch.dtype
    peak: float
    steps: int

    def measured(self, way: Way, micro_batch: int | None = None) -> Measured | None:
        """A way, in micro-batches of so many pairs, or of fewer where the memory is short; None if it holds not one."""
        micro_batch = micro_batch or self.pairs
        while micro_batch:
            try:
                return self._measured(way, micro_batch)
            except torch.OutOfMemoryError:
                micro_batch //= 2
            # only here is everything that the failed attempt held let go of
            gc.collect()
            if CUDA:
                torch.cuda.empty_cache()
        return None

    def _measured(self, way: Way, micro_batch: int) -> Measured:
        net = _model(self.config, self.dtype, DEVICE, drawn_on=DEVICE)
        model = _made(net, way)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)
        score, prompts = as_a_run, self.objective.needs_prompt_logps
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        seconds: list[float] = []
        flops: list[int] = []
        tokens: list[int] = []
        for number in range(3 + self.steps):
            rows = self.shape.rows(self.pairs, self.config["vocab_size"], seed=number)
            parts = [_step(rows[start : start + micro_batch]) for start in range(0, self.pairs, micro_batch)]
            synchronize()
            start = time.perf_counter()
            for i, part in enumerate(parts):
                train(model, self.objective, optimizer, part, score, is_last=i == len(parts) - 1)
            synchronize()
            if number >= 3:  # the first compile, choose kernels and reach the largest size
                seconds.append(time.perf_counter() - start)
                flops.append(sum(model.size.flops(Counts.of(part[1], prompts)) for part in parts))
                tokens.append(sum(part[1].num_tokens for part in parts))
        rate = statistics.median(work / taken for work, taken in zip(flops, seconds, strict=True))
        return Measured(
            pairs_per_s=self.pairs / statistics.median(seconds),
            tokens_per_s=sum(tokens) / sum(seconds),
            mfu=rate / self.peak,
            peak_gb=peak_memory() / 1e9,
            seconds=tuple(seconds),
            micro_batch=micro_batch,
        )


def _step(rows: list[TokenizedRow]) -> Step:
    return rows, pack(rows, step_info(rows)).to(DEVICE)


if __name__ == "__main__":
    main()
