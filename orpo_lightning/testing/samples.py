"""Random rows to train a few steps on, and random log-probabilities to call an objective with."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from orpo_lightning.records import PairLogps, Role, TokenizedResponse, TokenizedRow, UnpairedLogps

COUNT = 5
"""Pairs or responses in a sample of log-probabilities."""


def make_rows(count: int, vocabulary: int = 97, longest: int = 12, seed: int = 0) -> list[TokenizedRow]:
    """Random pairs in tokens, of uneven lengths, to train a few steps on.

    Example:
        >>> len(make_rows(3)), make_rows(3) == make_rows(3)
        (3, True)
    """
    generator = random.Random(seed)

    def tokens() -> tuple[int, ...]:
        return tuple(generator.randrange(3, vocabulary) for _ in range(generator.randint(1, longest)))

    return [
        TokenizedRow(
            row_id=f"made:{i + 1}",
            prompt=tokens(),
            responses=(TokenizedResponse(tokens(), Role.CHOSEN), TokenizedResponse(tokens(), Role.REJECTED)),
        )
        for i in range(count)
    ]


def make_unpaired_rows(count: int, vocabulary: int = 97, longest: int = 12, seed: int = 0) -> list[TokenizedRow]:
    """Random unpaired rows in tokens, of uneven lengths, desirable and undesirable in turn.

    Example:
        >>> [row.responses[0].label for row in make_unpaired_rows(3)]
        [1.0, 0.0, 1.0]
    """
    labels = (1.0, 0.0)
    return [
        replace(row, responses=(TokenizedResponse(row.responses[i % 2].ids, Role.UNPAIRED, labels[i % 2]),))
        for i, row in enumerate(make_rows(count, vocabulary, longest, seed))
    ]


def make_pairs(pairs: int = COUNT, dtype: torch.dtype = torch.float64, seed: int = 0) -> PairLogps:
    """Random log-probabilities of pairs, with everything that an objective may declare to need."""
    draw = _Draw(pairs, dtype, seed)
    chosen_tokens, rejected_tokens, prompt_tokens = draw.counts(), draw.counts(), draw.counts()
    chosen = draw.logps(chosen_tokens)
    return PairLogps(
        chosen=chosen,
        chosen_tokens=chosen_tokens,
        rejected=draw.logps(rejected_tokens),
        rejected_tokens=rejected_tokens,
        chosen_full=chosen + draw.logps(prompt_tokens),
        chosen_full_tokens=chosen_tokens + prompt_tokens,
        margin=torch.randn(pairs, generator=draw.generator, dtype=torch.float64).to(dtype),
        tokens_per_pair=8.0,
        full_tokens_per_pair=16.0,
    )


def make_unpaired(responses: int = COUNT, dtype: torch.dtype = torch.float64, seed: int = 0) -> UnpairedLogps:
    """Random log-probabilities of single responses, desirable and undesirable, with all that may be declared."""
    draw = _Draw(responses, dtype, seed)
    tokens, mismatched_tokens = draw.counts(), draw.counts()
    return UnpairedLogps(
        logps=draw.logps(tokens),
        tokens=tokens,
        desirable=torch.arange(responses) % 2 == 0,
        weight=torch.ones(responses),
        mismatched=draw.logps(mismatched_tokens),
    )


class _Draw:
    def __init__(self, count: int, dtype: torch.dtype, seed: int) -> None:
        self.count, self.dtype, self.generator = count, dtype, torch.Generator().manual_seed(seed)

    def counts(self) -> Tensor:
        return torch.randint(1, 20, (self.count,), generator=self.generator)

    def logps(self, tokens: Tensor) -> Tensor:
        per_token = -0.05 - 4 * torch.rand(self.count, generator=self.generator, dtype=torch.float64)
        return (per_token * tokens).to(self.dtype)
