"""Ways to take log-probabilities from hidden states: time of forward and backward, and memory, of each.

    python benchmarks/head.py

compares the package's blocks of the vocabulary with torch's own chunks of positions, with checkpointed chunks and with
all logits at once, at the size of SmolLM2's head. The numbers that it last printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions, Parameter
from yardstick.environment import conditions
from yardstick.measures import peak_memory, spread

from orpo_lightning.models.head import OutputHead, target_logps
from orpo_lightning.models.linear_logps import linear_logps
from orpo_lightning.sweep.share import cores

WIDTH, VOCABULARY = 576, 49152
CHUNK = 512
Way = Callable[[Tensor, Parameter, Tensor], Tensor]


def blocks(hidden: Tensor, weight: Parameter, targets: Tensor) -> Tensor:
    """The package's own: blocks of the vocabulary, computed again once in the backward pass."""
    return linear_logps(hidden, weight, None, targets)


def torch_chunks(hidden: Tensor, weight: Parameter, targets: Tensor) -> Tensor:
    """Torch's linear_cross_entropy in chunks of positions."""
    options = LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=CHUNK, acc_policy="compact")
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options)


def torch_default(hidden: Tensor, weight: Parameter, targets: Tensor) -> Tensor:
    """Torch's linear_cross_entropy with its own choice of chunks."""
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=LinearCrossEntropyOptions())


def checkpointed_chunks(hidden: Tensor, weight: Parameter, targets: Tensor) -> Tensor:
    """Chunks of positions by torch's checkpointing: the package's way for all other statistics of the logits."""

    def logps(logits: Tensor, of: Tensor) -> Tensor:
        return target_logps(logits, of)  # under a name for which the head has no blocks

    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    head.weight = weight
    return OutputHead(head, softcap=None).per_token(hidden, targets, statistic=logps, chunk_tokens=CHUNK)


def all_logits(hidden: Tensor, weight: Parameter, targets: Tensor) -> Tensor:
    """All logits at once."""
    return -F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")


WAYS: dict[str, Way] = {
    "blocks of the vocabulary (the package's)": blocks,
    "F.linear_cross_entropy, chunks of 512": torch_chunks,
    "F.linear_cross_entropy, its default": torch_default,
    "checkpointed chunks of 512": checkpointed_chunks,
    "all logits at once": all_logits,
}


def main() -> None:
    """Run each way in a process of its own, twice, and print the table; or, with --way, be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3, help="of each process, of which there are two")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(*measure(WAYS[options.way], options.positions, options.repeats))
        return
    print(conditions())
    print(f"fp32, {options.positions} positions, width {WIDTH}, vocabulary {VOCABULARY}\n")
    print("| | forward and backward, s | memory over the inputs, GB |\n|---|---|---|")
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for way in [*WAYS, *reversed(WAYS)]:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[way].append([float(number) for number in ended.stdout.split()])
    for way, runs in found.items():
        seconds = [number for _, *numbers in runs for number in numbers]
        print(f"| {way} | {spread(seconds)} | {max(memory for memory, *_ in runs):.2f} |")


def check(way: Way) -> None:
    """Insist that a way computes what all logits at once do, in value and gradient, on a small head."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(50, 16), torch.randn(300, 16), torch.randint(300, (50,))

    def found(way: Way) -> list[Tensor]:
        inputs = hidden.clone().requires_grad_(), Parameter(weight.clone())
        logps = way(*inputs, targets)
        (logps * torch.linspace(0.5, 1.5, len(logps))).sum().backward()
        return [logps.detach(), *(each.grad for each in inputs if each.grad is not None)]

    for one, other in zip(found(way), found(all_logits), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def measure(way: Way, positions: int, repeats: int) -> list[float]:
    """Memory over what was there before, 10^9 bytes, and then the seconds of each repetition."""
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    hidden = torch.randn(positions, WIDTH, requires_grad=True)
    weight = Parameter(torch.randn(VOCABULARY, WIDTH).mul_(WIDTH**-0.5))
    targets = torch.randint(VOCABULARY, (positions,))
    check(way)
    before, seconds = peak_memory(), []
    for _ in range(repeats + 1):  # the first one warms up
        hidden.grad = weight.grad = None
        start = time.perf_counter()
        way(hidden, weight, targets).sum().backward()
        seconds.append(time.perf_counter() - start)
    return [(peak_memory() - before) / 1e9, *seconds[1:]]


if __name__ == "__main__":
    main()
