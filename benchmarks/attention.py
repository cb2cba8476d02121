"""Ways to compute the attention of a packed batch on a CPU: time of forward and backward of each, on real lengths.

    python benchmarks/attention.py --data-folder ../shared/data

compares the package's blocks with the same blocks after keys and values were repeated for each query head, and with
blocks of like length padded to the longest of a few and computed in one call. Heads are those of SmolLM2. The numbers
that it last printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from yardstick.environment import ROOT, conditions
from yardstick.measures import spread
from yardstick.rows import ABOUT_FILES, FILES, tokenized
from yardstick.rungs import steps_of

from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.segments import Segment, segments
from orpo_lightning.packing import PackedBatch
from orpo_lightning.sweep.share import cores

HEADS, KEY_HEADS, HEAD_SIZE = 9, 3, 64
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Way = Callable[[PackedBatch], Attend]
CPU = torch.device("cpu")


def blocks(batch: PackedBatch) -> Attend:
    """The package's: a call for each segment, grouped queries read the key that they share."""
    return partial(BlockAttention(batch.groups, CPU).attend, scale=None, dropout=0.0)


def repeated(batch: PackedBatch) -> Attend:
    """The same with a key and a value for each query head."""
    attend = blocks(batch)

    def after(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, *(each.repeat_interleave(HEADS // KEY_HEADS, dim=1) for each in (key, value)))

    return after


def like_length(batch: PackedBatch, at_once: int) -> Attend:
    """A call for so many segments of like length, padded to the longest of them."""
    every = sorted(segments(batch.groups), key=lambda segment: segment.tokens)
    kinds = ([each for each in every if bool(each.prompt_tokens) is further] for further in (False, True))
    calls = [_Call(kind[i : i + at_once]) for kind in kinds for i in range(0, len(kind), at_once)]
    order = torch.cat([call.order for call in calls]).argsort()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        outputs = torch.cat([call(query, key, value) for call in calls])
        return outputs[order].transpose(0, 1)[None]

    return attend


class _Call:
    def __init__(self, members: Sequence[Segment]) -> None:
        tokens = max(each.tokens for each in members)
        prompt = max(each.prompt_tokens for each in members)
        place = torch.arange(tokens)
        starts, ends = (torch.tensor([getattr(each, name) for each in members]) for name in ("start", "end"))
        self.queries = (starts[:, None] + place).minimum(ends[:, None] - 1)
        self.is_token = starts[:, None] + place < ends[:, None]
        self.order = self.queries[self.is_token]
        self.keys, self.mask = self.queries, None
        if prompt:
            firsts, lengths = (
                torch.tensor([getattr(each, name) for each in members]) for name in ("prompt_start", "prompt_tokens")
            )
            before = torch.arange(prompt).expand(len(members), -1)
            self.keys = torch.cat([firsts[:, None] + before.minimum(lengths[:, None] - 1), self.queries], dim=1)
            own = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(len(members), -1, -1)
            seen = (before < lengths[:, None])[:, None].expand(-1, tokens, -1)
            self.mask = torch.cat([seen, own], dim=2)[:, None]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        states = (
            each[0][:, where].transpose(0, 1)
            for each, where in zip((query, key, value), (self.queries, self.keys, self.keys), strict=True)
        )
        causal = self.mask is None
        out = F.scaled_dot_product_attention(*states, attn_mask=self.mask, is_causal=causal, enable_gqa=True)
        return out.transpose(1, 2)[self.is_token]


WAYS: dict[str, Way] = {
    "a call for each segment (the package's)": blocks,
    "keys and values repeated for each query head": repeated,
    "2 of like length in a call": partial(like_length, at_once=2),
    "4 of like length in a call": partial(like_length, at_once=4),
}


def main() -> None:
    """Print a table for each set of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", default="smollm2", help="whose tokenizer it is")
    parser.add_argument("--pairs", type=int, default=8, help="of a batch")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="of each batch and way, in turn")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    print(f"{conditions()}\n{ABOUT_FILES}")
    print(
        f"fp32, {HEADS} heads of {HEAD_SIZE} with {KEY_HEADS} keys, {options.batches} batches of {options.pairs} pairs."
    )
    for data, file in FILES.items():
        rows = tokenized(str(options.data_folder / file), options.model, options.pairs)
        batches = [batch for _, batch in steps_of(rows, options.pairs, options.batches)]
        print(f"\n### {data}\n\n{table(batches, options.repeats)}", flush=True)


def table(batches: Sequence[PackedBatch], repeats: int) -> str:
    """The ways, a line each: the time of all batches, and of it that of the package's way on the same batch."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for batch in batches:
        states = [torch.randn(1, heads, batch.num_tokens, HEAD_SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        expected = None
        for turn in range(repeats + 1):
            for name, way in list(WAYS.items())[:: (-1) ** turn]:  # there and back
                attend = way(batch)
                inputs = [each.clone().requires_grad_() for each in states]
                start = time.perf_counter()
                out = attend(*inputs)
                out.backward(torch.ones_like(out))
                passed = time.perf_counter() - start
                if turn:
                    seconds[name].append(passed)
                else:  # warms up, and checks
                    found = [out.detach(), *(each.grad for each in inputs)]
                    expected = expected or found
                    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    own = next(iter(seconds.values()))
    lines = ["| | forward and backward of a batch, ms | / the package's |", "|---|---|---|"]
    for name, each in seconds.items():
        ratios = [a / b for a, b in zip(each, own, strict=True)]
        lines.append(f"| {name} | {spread([1000 * number for number in each], '.1f')} | {spread(ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
