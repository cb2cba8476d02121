"""Floating-point operations of training steps by closed form, ours and those of TRL's padded rows, over all rows.

    python benchmarks/operations.py --data-folder ../shared/data

takes every row of a set in one random order, in steps of 8 pairs, and prints how many times ours TRL's operations are:
with all pairs in one micro-batch, and with one pair in each. The convention is that of against_trl.py, which counts
while steps run, but of a few: attention as full rectangles, and what is computed again in the backward pass. The last
column is what the first would be if our logits were kept and not computed again. The numbers that it last printed are
in benchmarks/against_trl.md.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from yardstick.environment import ROOT, conditions
from yardstick.job import Setting
from yardstick.rows import ABOUT_FILES, FILES, tokenized
from yardstick.rungs import OBJECTIVES

from orpo_lightning.models.pretrained import resolve
from orpo_lightning.models.work import ModelSize
from orpo_lightning.records import TokenizedRow

HEAD_PASSES = {"ours": 4, "ORPO": 3, "DPO": 4}
"""Products of the head: forward, two gradients, and its logits once more where they are not kept."""


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=8, help="of a step")
    options = parser.parse_args()
    size = size_of(resolve(options.model))
    print(f"{conditions()}\n{ABOUT_FILES}\n{options.model}, {options.pairs} pairs a step")
    print("TRL's operations / ours, over all rows of up to 1,024 tokens, by TRL's micro-batches\n")
    print(f"| data | objective | {options.pairs} per micro-batch | 1 per micro-batch | the first, logits kept |")
    print("|---|---|---|---|---|")
    for data, file in FILES.items():
        rows = list(tokenized(str(options.data_folder / file), options.model, options.pairs))
        random.Random(0).shuffle(rows)
        whole = range(0, len(rows) - options.pairs + 1, options.pairs)
        steps = [rows[start : start + options.pairs] for start in whole]
        for objective, kind in OBJECTIVES.items():
            prompts = kind().needs_prompt_logps
            own = sum(ours(size, step, prompts) for step in steps)
            least = sum(ours(size, step, prompts, head_passes=3) for step in steps)
            together = sum(padded(size, step, objective) for step in steps)
            alone = sum(padded(size, [row], objective) for step in steps for row in step)
            print(f"| {data} | {objective} | {together / own:.2f} | {alone / own:.2f} | {together / least:.2f} |")


def ours(size: ModelSize, rows: Sequence[TokenizedRow], prompts: bool, head_passes: int = HEAD_PASSES["ours"]) -> int:
    """Operations of a packed step.

    Args:
        size: the model.
        rows: the pairs.
        prompts: whether the prompts' tokens are scored too.
        head_passes: products of the head.
    """
    tokens = scored = attended = 0
    for row in rows:
        prompt, (first, *further) = len(row.prompt), [len(each.ids) for each in row.responses]
        # the last token of a response is predicted, but predicts nothing
        tokens += prompt + first - 1 + sum(each - 1 for each in further)
        scored += first + sum(further) + prompts * (prompt - 1)
        attended += (prompt + first - 1) ** 2 + sum((each - 1) * (prompt + each - 1) for each in further)
    return 6 * size.linear * tokens + 2 * head_passes * size.head * scored + 14 * size.attention * attended


@cache
def size_of(model: str) -> ModelSize:
    """What of a model costs work, without its weights.

    Args:
        model: folder of the model.

    Raises:
        ValueError: its configuration does not tell.
    """
    with torch.device("meta"):
        size = ModelSize.of(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)))
    if size is None:
        raise ValueError(f"the configuration of {model} does not tell how much work a step is; take another model")
    return size


def both_sides(size: ModelSize, rows: Sequence[TokenizedRow], setting: Setting, objective: str) -> dict[str, list[int]]:
    """Operations of each optimizer step, ``ours`` and ``trl``'s, without gradient checkpointing.

    Args:
        size: the model.
        rows: the pairs of all steps, in their order.
        setting: how TRL splits them.
        objective: by the name of ours.
    """
    prompts = OBJECTIVES[objective]().needs_prompt_logps
    of_ours, of_trl = [], []
    for start in range(0, len(rows), setting.pairs):
        step = rows[start : start + setting.pairs]
        micro_batches = [step[at : at + setting.micro_batch] for at in range(0, len(step), setting.micro_batch)]
        of_ours.append(ours(size, step, prompts))
        of_trl.append(sum(padded(size, micro_batch, objective) for micro_batch in micro_batches))
    return {"ours": of_ours, "trl": of_trl}


def padded(size: ModelSize, rows: Sequence[TokenizedRow], objective: str) -> int:
    """Operations of a micro-batch of TRL's padded rows, one for each response."""
    longest = max(len(row.prompt) + len(each.ids) for row in rows for each in row.responses)
    tokens = 2 * len(rows) * longest
    # its DPO leaves out the last position of each row, which predicts nothing
    scored = tokens - 2 * len(rows) * (objective == "DPO")
    head = 2 * HEAD_PASSES[objective] * size.head * scored
    return 6 * size.linear * tokens + head + 14 * size.attention * tokens * longest


if __name__ == "__main__":
    main()
