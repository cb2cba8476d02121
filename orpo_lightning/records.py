"""The typed records that flow between the layers. Imports torch and nothing of this package.

Shape suffixes: B pairs, R responses, G prompt groups of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor

HALF_PRECISION = (torch.bfloat16, torch.float16)


class Role(IntEnum):
    """The part a response plays in its prompt group; a mismatched one answers another prompt."""

    CHOSEN = 0
    REJECTED = 1
    UNPAIRED = 2
    MISMATCHED = 3


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer.

    Args:
        row_id: where it came from, ``file:row``.
        prompt: the conversation up to the response.
    """

    row_id: str
    prompt: tuple[Message, ...]


@dataclass(frozen=True)
class TextResponse:
    """A response to a prompt, as text."""

    text: str
    role: Role
    label: float | None = None


@dataclass(frozen=True)
class TextRow:
    """One prompt and its responses, as text: a pair, or a single response with a label.

    Args:
        row_id: where the row came from, ``file:row``; every error about the row names it.
        prompt: the conversation up to the response.
        responses: the chosen and the rejected response, or an unpaired one.
        margin: difference of the two responses' scores, or None where the data has none.
        weight: the row's weight in the loss.

    Example:
        >>> row = TextRow.pair("a:1", (Message("user", "Hi"),), chosen="Hello!", rejected="What?")
        >>> row.rejected
        'What?'
    """

    row_id: str
    prompt: tuple[Message, ...]
    responses: tuple[TextResponse, ...]
    margin: float | None = None
    weight: float = 1.0

    @classmethod
    def pair(cls, row_id: str, prompt: tuple[Message, ...], chosen: str, rejected: str, **fields: Any) -> TextRow:
        """A row of two responses."""
        responses = (TextResponse(chosen, Role.CHOSEN), TextResponse(rejected, Role.REJECTED))
        return cls(row_id, prompt, responses, **fields)

    @property
    def chosen(self) -> str | None:
        """The preferred response; None if the row is not a pair."""
        return self._text(Role.CHOSEN)

    @property
    def rejected(self) -> str | None:
        """The other response; None if the row is not a pair."""
        return self._text(Role.REJECTED)

    @property
    def unpaired(self) -> str | None:
        """The response of a row that is not a pair; None if the row is one."""
        return self._text(Role.UNPAIRED)

    def _text(self, role: Role) -> str | None:
        for response in self.responses:  # a generator takes three times as long, and this runs often
            if response.role is role:
                return response.text
        return None


@dataclass(frozen=True)
class TokenizedResponse:
    """A response in tokens, its end-of-sequence token included."""

    ids: tuple[int, ...]
    role: Role
    label: float | None = None


@dataclass(frozen=True)
class TokenizedRow:
    """One prompt and its responses in tokens: a *prompt group*. A pair is a group of two."""

    row_id: str
    prompt: tuple[int, ...]
    responses: tuple[TokenizedResponse, ...]
    margin: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError(f"{self.row_id}: the prompt has no tokens; the first token of a response needs one")
        if not self.responses or any(not response.ids for response in self.responses):
            raise ValueError(f"{self.row_id}: a response has no tokens")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"{self.row_id}: the row's weight is {self.weight!r}; accepted: a number from 0 on")

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of all responses, each counted once."""
        return len(self.prompt) + sum(len(response.ids) for response in self.responses)


@dataclass(frozen=True)
class StepInfo:
    """What a micro-batch knows of the global batch that it is a part of.

    Args:
        weight: sum of the row weights of the global batch.
        tokens_per_pair: weighted mean number of chosen response tokens of the global batch.
        full_tokens_per_pair: the same for prompt and chosen response together, less the first token of
            each prompt, which nothing predicts.
        micro_batches: number of micro-batches, over all ranks, that make up the global batch.
        is_last: whether the optimizer steps after this micro-batch.
        seed: of this micro-batch's randomness (dropout), a function of the position in the run.
        response_weight: sum of the row weights over the responses of the global batch, mismatched ones excepted.
        split_has_pairs: whether any row of the split is a pair, so that all its batches have the same measures.
    """

    weight: float
    tokens_per_pair: float
    full_tokens_per_pair: float
    micro_batches: int = 1
    is_last: bool = True
    seed: int = 0
    response_weight: float = 1.0
    split_has_pairs: bool = False


@dataclass(frozen=True)
class ResponseLogps:
    """The flat table of responses that a model scored; pairs, rankings and unpaired rows are views of it.

    Args:
        logps: summed log-probabilities of the responses, nats, ``(R,)``.
        tokens: their token counts, ``(R,)``.
        group: the prompt group of each response, ``(R,)``.
        role: its :class:`Role`, ``(R,)``.
        label: the desirability of unpaired responses or the score of ranked ones, NaN where none, ``(R,)``.
        prompt_logps: summed log-probabilities of the prompts, nats, ``(G,)``; None when not asked for.
        prompt_tokens: predicted tokens of the prompts, ``(G,)``.
    """

    logps: Tensor
    tokens: Tensor
    group: Tensor
    role: Tensor
    label: Tensor
    prompt_logps: Tensor | None
    prompt_tokens: Tensor


class UndeclaredNeedError(Exception):
    """An objective read a log-probability that it did not declare to need, so that nobody computed it."""


class Declared:
    """A field that is computed only for objectives that declare `need`; None: it was not."""

    def __init__(self, need: str) -> None:
        self.need = need

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> None: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Tensor: ...
    def __get__(self, instance: object | None, owner: type) -> Tensor | None:
        if instance is None:
            return None  # the default of the dataclass field
        value: Tensor | None = instance.__dict__[self.name]
        if value is None:
            raise UndeclaredNeedError(
                f"{self.name!r} was not computed, because the objective does not declare that it reads it: "
                f"set `{self.need} = True` in its class."
            )
        return value

    def __set__(self, instance: object, value: Tensor | None) -> None:
        instance.__dict__[self.name] = value


class _Logps:
    """What the views that objectives see have in common."""

    _raised: ClassVar[tuple[str, ...]]
    """The fields that are raised to fp32 from half precision."""

    def replace(self, **changes: Any) -> Self:
        """These log-probabilities with some fields changed (`dataclasses.replace` would read what was not computed)."""
        return type(self)(**{**self.__dict__, **changes})

    def __post_init__(self) -> None:
        for name in self._raised:
            value = self.__dict__[name]
            if value is not None and value.dtype in HALF_PRECISION:
                object.__setattr__(self, name, value.float())


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PairLogps(_Logps):
    """Log-probabilities of B preference pairs under one model: what an objective sees.

    Half-precision inputs are raised to fp32, so that no objective computes a loss in bf16.

    Args:
        chosen: summed log-probability of the chosen responses, nats, ``(B,)``.
        chosen_tokens: number of tokens of the chosen responses, ``(B,)``.
        rejected: summed log-probability of the rejected responses, nats, ``(B,)``; None if not computed.
        rejected_tokens: number of tokens of the rejected responses, ``(B,)``; None if not computed.
        chosen_full: summed log-probability of prompt and chosen response, nats, ``(B,)``; None if not computed.
        chosen_full_tokens: number of tokens in that sum, ``(B,)``; None if not computed.
        margin: difference of the two responses' scores in the data, ``(B,)``, NaN where a row has none; or None.
        tokens_per_pair: mean of `chosen_tokens` over the **global** batch, tokens. Default: over these pairs.
        full_tokens_per_pair: mean of `chosen_full_tokens` over the global batch, tokens. Default: over these pairs.

    Example:
        >>> logps = PairLogps(
        ...     chosen=torch.tensor([-6.0]), chosen_tokens=torch.tensor([3]),
        ...     rejected=torch.tensor([-8.0]), rejected_tokens=torch.tensor([2]),
        ... )
        >>> logps.chosen_mean, logps.rejected_mean
        (tensor([-2.]), tensor([-4.]))
    """

    chosen: Tensor
    chosen_tokens: Tensor
    rejected: Declared = Declared("needs_rejected")
    rejected_tokens: Declared = Declared("needs_rejected")
    chosen_full: Declared = Declared("needs_prompt_logps")
    chosen_full_tokens: Declared = Declared("needs_prompt_logps")
    margin: Tensor | None = None
    tokens_per_pair: float | None = None
    full_tokens_per_pair: float | None = None

    _raised = ("chosen", "rejected", "chosen_full")

    @property
    def chosen_mean(self) -> Tensor:
        """Mean log-probability of the chosen responses, nats/token, ``(B,)``."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """Mean log-probability of the rejected responses, nats/token, ``(B,)``."""
        return self.rejected / self.rejected_tokens

    @property
    def has_rejected(self) -> bool:
        """Whether the rejected responses were scored."""
        return self.__dict__["rejected"] is not None

    def mean_tokens(self, full: bool) -> float | Tensor:
        """Tokens per pair of the global batch: of the chosen response, or of prompt and chosen response."""
        if full:
            given = self.full_tokens_per_pair
            return given if given is not None else self.chosen_full_tokens.double().mean()
        given = self.tokens_per_pair
        return given if given is not None else self.chosen_tokens.double().mean()


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class UnpairedLogps(_Logps):
    """Log-probabilities of R responses under one model, each with a verdict of its own: what an objective without
    pairs sees. A chosen response counts as desirable and a rejected one as undesirable.

    Half-precision inputs are raised to fp32.

    Args:
        logps: summed log-probability of the responses, nats, ``(R,)``.
        tokens: number of tokens of the responses, ``(R,)``.
        desirable: whether the response is desirable, ``(R,)``.
        weight: the row's weight in the loss, ``(R,)``.
        mismatched: summed log-probability of a response to another prompt after the response's own prompt, nats,
            ``(R,)``; None if not computed.
        pairs: where among the responses the chosen and the rejected one of each pair stand, ``(2, B)``, for the
            measures of pairs; None where the data has none.

    Example:
        >>> UnpairedLogps(
        ...     logps=torch.tensor([-6.0]), tokens=torch.tensor([3]),
        ...     desirable=torch.tensor([True]), weight=torch.tensor([1.0]),
        ... ).mean
        tensor([-2.])
    """

    logps: Tensor
    tokens: Tensor
    desirable: Tensor
    weight: Tensor
    mismatched: Declared = Declared("needs_mismatched")
    pairs: Tensor | None = None

    _raised = ("logps", "mismatched")

    @property
    def mean(self) -> Tensor:
        """Mean log-probability of the responses, nats/token, ``(R,)``."""
        return self.logps / self.tokens


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective returns: values per pair, or per response if it takes no pairs, never reduced.

    Args:
        loss: the loss, ``(B,)`` or ``(R,)``.
        chosen_rewards: implicit reward of the chosen responses, detached, ``(B,)``; None if the objective has none.
        rejected_rewards: the same of the rejected responses.
        terms: further values to log under their names, each of the shape of the loss, detached.
        rewards: implicit reward of each response, detached, ``(R,)``, of an objective that takes no pairs.
    """

    loss: Tensor
    chosen_rewards: Tensor | None = None
    rejected_rewards: Tensor | None = None
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    rewards: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PairScores:
    """What a model makes of each of B pairs of a validation set.

    Args:
        row_ids: where each pair came from.
        weight: weights of the rows; 0 in a slot that only keeps the ranks in step, ``(B,)``.
        chosen: summed log-probability of the chosen responses, nats, ``(B,)``.
        rejected: that of the rejected responses.
        chosen_tokens: number of tokens of the chosen responses, ``(B,)``.
        rejected_tokens: those of the rejected responses.
    """

    row_ids: tuple[str, ...]
    weight: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
