"""The rows that both sides train on: our tokens, and texts of which TRL makes the same tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from orpo_lightning import PreferenceDataModule
from orpo_lightning.models.tokenizer import Tokenizer, load_tokenizer
from orpo_lightning.records import TokenizedRow
from yardstick.job import Job, Setting

FILES = {"hh_rlhf": "hh_rlhf/train.jsonl.gz", "gpt4_pairs": "gpt4_pairs/train_prefs.parquet"}
"""Long prompts with short answers, and short prompts with long ones: by their names, in the folder of the data."""

ABOUT_FILES = (
    "hh_rlhf: HH-RLHF, its harmless-base part only (Anthropic, MIT). gpt4_pairs: GPT-4's preferences between answers "
    "to the prompts of AlpacaEval (tatsu-lab, CC BY-NC 4.0), in the columns of UltraFeedback-binarized."
)
"""What stands beside every figure that was measured on them."""


def data_settings(data: str, model: str, max_length: int, pairs: int) -> dict[str, Any]:
    """Of our data module: no validation, and rows are dropped for the length of a whole conversation only."""
    return {
        "train": data,
        "val": None,
        "tokenizer": model,
        "global_batch_size": pairs,
        "max_length": max_length,
        "max_prompt_length": max_length - 1,
        "shuffle": False,
    }


def tokenized(data: str, model: str, pairs: int, max_length: int = 1024) -> Sequence[TokenizedRow]:
    """All rows of a file that are not too long.

    Args:
        data: path of the data, as in ``data.train``.
        model: whose tokenizer it is.
        pairs: of an optimizer step.
        max_length: longest conversation, tokens.
    """
    module = PreferenceDataModule(**data_settings(data, model, max_length, pairs))
    module.setup("fit")
    return module.rows["train"]


class ChosenRows(PreferenceDataModule):
    """Our data module with the rows of a job, in their order."""

    def __init__(self, job: Job) -> None:
        super().__init__(**data_settings(job.data, job.model, job.max_length, job.setting.pairs))
        self.chosen_rows = job.rows

    def setup(self, stage: str) -> None:
        """Read all rows, keep those of the job."""
        super().setup(stage)
        rows = self._rows["train"]
        self._rows = {"train": [rows[i] for i in self.chosen_rows]}


@dataclass(frozen=True)
class Pool:
    """The rows to choose from.

    Args:
        rows: all tokenized rows of the data.
        texts: of those whose texts come back as the same tokens, by their index.
    """

    rows: Sequence[TokenizedRow]
    texts: dict[int, dict[str, str]]

    @classmethod
    def of(cls, data: str, model: str, max_length: int) -> Pool:
        """All rows that fit, and their texts."""
        module = PreferenceDataModule(**data_settings(data, model, max_length, pairs=1))
        module.setup("fit")
        rows, tokenizer = module.rows["train"], load_tokenizer(model)
        texts = {i: as_text(tokenizer, row) for i, row in enumerate(rows)}
        return cls(rows, {i: text for i, text in texts.items() if text is not None})

    @property
    def left_out(self) -> int:
        """Rows whose texts do not come back as the same tokens."""
        return len(self.rows) - len(self.texts)

    def choose(self, setting: Setting, steps: int, longest: int) -> tuple[int, ...]:
        """The rows of some steps, in their order: those whose longer conversation has `longest` tokens at most.

        Without grouping, the first of the data. With it, the batches that transformers' ``group_by_length`` makes of
        all of them: of its first stretch, which goes from long to short rows, some at even distances, in a fixed
        random order.
        """
        usable, pairs = [i for i in self.texts if _longest(self.rows[i]) <= longest], setting.pairs
        if len(usable) < steps * pairs:
            raise ValueError(f"{steps} steps of {pairs} pairs need {steps * pairs} rows, and there are {len(usable)}")
        if not setting.grouped:
            return tuple(usable[: steps * pairs])
        lengths = [_longest(self.rows[i]) for i in usable]
        order = get_length_grouped_indices(lengths, pairs, generator=torch.Generator().manual_seed(0))
        stretch = max(1, min(len(usable) // (4 * pairs), 50))
        picked = [(2 * step + 1) * stretch // (2 * steps) for step in range(steps)]
        random.Random(0).shuffle(picked)
        return tuple(usable[i] for batch in picked for i in order[batch * pairs : (batch + 1) * pairs])

    def tokens(self, indices: Sequence[int], pairs: int) -> list[int]:
        """Tokens of each step, those of a prompt counted once."""
        counts = [self.rows[i].num_tokens for i in indices]
        return [sum(counts[start : start + pairs]) for start in range(0, len(counts), pairs)]

    def describe(self, indices: Sequence[int]) -> dict[str, float]:
        """Which rows were trained on: their mean lengths, and how many could not be."""
        lengths = [
            (len(row.prompt), *(len(each.ids) for each in row.responses)) for row in (self.rows[i] for i in indices)
        ]
        prompt, chosen, rejected = (sum(column) / len(lengths) for column in zip(*lengths, strict=True))
        counts = {"read": len(self.rows), "left_out": self.left_out}
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **counts}

    def write(self, indices: Sequence[int], path: Path) -> None:
        """Rows as text and tokens, a line each."""
        with path.open("w", encoding="utf-8") as file:
            for i in indices:
                chosen, rejected = self.rows[i].responses
                ids = {"prompt_ids": self.rows[i].prompt, "chosen_ids": chosen.ids, "rejected_ids": rejected.ids}
                file.write(json.dumps({"row_id": self.rows[i].row_id, **self.texts[i], **ids}) + "\n")


def as_text(tokenizer: Tokenizer, row: TokenizedRow) -> dict[str, str] | None:
    """The rendered prompt and the responses as text; None where TRL would make other tokens of them.

    TRL encodes prompt and response as one text, and adds the end-of-sequence token to it (ORPO to its tokens).
    """
    chosen, rejected = row.responses
    texts = {
        "prompt": _decoded(tokenizer, row.prompt),
        "chosen": _decoded(tokenizer, chosen.ids[:-1]),
        "rejected": _decoded(tokenizer, rejected.ids[:-1]),
    }
    joined = [texts["prompt"] + texts[name] for name in ("chosen", "rejected")]
    with_end = [text + tokenizer.eos_token for text in joined]
    expected = [row.prompt, *(row.prompt + each.ids[:-1] for each in row.responses)]
    expected += [row.prompt + each.ids for each in row.responses]
    found = tokenizer([texts["prompt"], *joined, *with_end])["input_ids"]
    return texts if [*map(tuple, found)] == expected else None


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _longest(row: TokenizedRow) -> int:
    return len(row.prompt) + max(len(response.ids) for response in row.responses)
