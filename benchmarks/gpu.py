"""The packed batch on a GPU: right to rounding, and how fast, against padded rows.

    python benchmarks/gpu.py            # a Llama of 1.2 billion random weights, bf16
    python benchmarks/gpu.py --small    # a small one, also without a GPU: minutes, to see that the command works

First each way of taking a step is held against fp64 on the CPU, in value and in the gradient of each parameter, and a
difference beyond rounding ends the command. Then steps of ORPO and DPO are timed at lengths shaped like those of
hh_rlhf (long prompts, short answers) and of gpt4_pairs (the reverse), and at 8,192 tokens a pair: padded rows with all
logits, at the largest micro-batch that the memory holds, and the packed batch by each kernel and with compiled layers.

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
from yardstick.rungs import RUNGS, Step, train

from orpo_lightning import DPO, ORPO, Objective
from orpo_lightning.callbacks.peak_rate import peak_rate
from orpo_lightning.data.batching import step_info
from orpo_lightning.models.attention.choice import KERNELS
from orpo_lightning.models.attention.segments import AttentionCall
from orpo_lightning.models.compilation import compile_layers
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.work import Counts, ModelSize
from orpo_lightning.packing import pack
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
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
    "8,192 tokens a pair": Shape(2048, 3072, 3072, 0.0, pairs=4),
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
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    config = SMALL if options.small else LLAMA_1B
    dtype = torch.bfloat16 if CUDA else torch.float32
    peak = options.peak_tflops * 1e12 if options.peak_tflops else peak_rate(DEVICE, dtype)
    print(conditions())
    print(f"{dtype}, {peak / 1e12:,.1f} * 10^12 operations per second at best\n")
    check()
    for name, shape in SHAPES.items():
        for objective in (ORPO(), DPO()):
            pairs = max(1, shape.pairs // 32) if options.small else shape.pairs
            print(f"### {name}, {type(objective).__name__}, {pairs} pairs a step\n")
            print("| | pairs/s | tokens/s | MFU | peak memory, GB | step, s | pairs per micro-batch |")
            print("|---|---|---|---|---|---|---|")
            padded, *packed = ways(dtype)
            line, fits = measured(padded, shape, objective, pairs, pairs, config, dtype, peak, options.steps)
            print(f"| {padded.name} | {line} |")
            for way in packed:
                line, _ = measured(way, shape, objective, pairs, pairs, config, dtype, peak, options.steps)
                print(f"| {way.name} | {line} |", flush=True)
            if 0 < fits < pairs:  # to compare the memory
                line, _ = measured(packed[0], shape, objective, pairs, fits, config, dtype, peak, options.steps)
                print(f"| {packed[0].name}, in micro-batches as the padded rows | {line} |")
            print(flush=True)


def check(dtypes: Iterable[torch.dtype] = tuple(LARGEST_ERRORS)) -> None:
    """Hold every way that is measured against fp64 on the CPU, by a model of the small shape.

    Args:
        dtypes: of the weights.

    Raises:
        SystemExit: one differs by more than rounding.
    """
    print("| way | dtype | error of the log-probabilities | largest of a parameter's gradient | that of |")
    print("|---|---|---|---|---|")
    rows = Shape(90, 60, 60, 0.8, 6).rows(6, CHECKED["vocab_size"], seed=1)
    exact = _scores(_model(CHECKED, torch.float64, torch.device("cpu")), Way("exact", "packed", "blocks"), rows)
    worst = []
    for dtype in dtypes:
        largest = LARGEST_ERRORS[dtype]
        for way in ways(dtype):
            errors = Errors.of(_scores(_model(CHECKED, dtype, DEVICE), way, rows), exact)
            print(f"| {way.name} | {str(dtype).removeprefix('torch.')} | {errors} |")
            if not (errors.logps <= largest.logps and errors.gradient <= largest.gradient):
                worst.append(f"{way.name} in {dtype}: {errors.logps:.1e}, {errors.gradient:.1e} of {errors.parameter}")
    print(flush=True)
    torch._dynamo.reset()  # torch compiles a function a few times only, and measuring has a right to all of them
    if worst:
        raise SystemExit(f"beyond rounding: {'; '.join(worst)}")


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


def _model(config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    torch.manual_seed(0)  # on the CPU, so that all have the same weights
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


def measured(
    way: Way,
    shape: Shape,
    objective: Objective,
    pairs: int,
    micro_batch: int,
    config: dict[str, Any],
    dtype: torch.dtype,
    peak: float,
    steps: int,
) -> tuple[str, int]:
    """A line of the table, and the pairs of a micro-batch: those given if the memory holds them, else fewer."""
    while micro_batch:
        try:
            return _measured(way, shape, objective, (pairs, micro_batch), config, dtype, peak, steps), micro_batch
        except torch.OutOfMemoryError:
            micro_batch //= 2
        # only here is everything that the failed attempt held let go of
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
    return "out of memory with one pair | | | | |", 0


def _measured(
    way: Way,
    shape: Shape,
    objective: Objective,
    sizes: tuple[int, int],
    config: dict[str, Any],
    dtype: torch.dtype,
    peak: float,
    steps: int,
) -> str:
    pairs, micro_batch = sizes
    net = _model(config, dtype, DEVICE)
    model = _made(net, way)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)
    size, score = ModelSize.of(net), RUNGS["blocks"][1]
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    flops: list[int] = []
    tokens: list[int] = []
    for number in range(3 + steps):
        rows = shape.rows(pairs, config["vocab_size"], seed=number)
        parts = [_step(rows[start : start + micro_batch]) for start in range(0, pairs, micro_batch)]
        synchronize()
        start = time.perf_counter()
        for i, part in enumerate(parts):
            train(model, objective, optimizer, part, score, is_last=i == len(parts) - 1)
        synchronize()
        if number >= 3:  # the first compile, choose kernels and reach the largest size
            seconds.append(time.perf_counter() - start)
            flops.append(sum(size.flops(Counts.of(part[1], objective.needs_prompt_logps)) for part in parts))
            tokens.append(sum(part[1].num_tokens for part in parts))
    rate = statistics.median(work / taken for work, taken in zip(flops, seconds, strict=True))
    middle = statistics.median(seconds)
    return (
        f"{pairs / middle:,.1f} | {sum(tokens) / sum(seconds):,.0f} | {rate / peak:.1%} | {peak_memory() / 1e9:.2f} | "
        f"{spread(seconds, '.3f')} | {micro_batch}"
    )


def _step(rows: list[TokenizedRow]) -> Step:
    return rows, pack(rows, step_info(rows)).to(DEVICE)


if __name__ == "__main__":
    main()
