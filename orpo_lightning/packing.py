"""The packed micro-batch: one stream of tokens without padding, each prompt once, followed by its responses.

The last token of a response is predicted but predicts nothing, so it is a target and never an input: a
one-token response takes no place in the stream at all.

Shape suffixes: N tokens of the stream, M scored positions, P scored prompt positions, G prompt groups, R responses.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orpo_lightning.records import (
    PairLogps,
    ResponseLogps,
    Role,
    StepInfo,
    TokenizedResponse,
    TokenizedRow,
    UnpairedLogps,
)


class ResponseSpan(NamedTuple):
    """Where the input tokens of a response stand in the stream: ``[start, end)``."""

    start: int
    end: int


class GroupSpan(NamedTuple):
    """Where a prompt, and after it its responses, stand in the stream."""

    start: int
    prompt_end: int
    responses: tuple[ResponseSpan, ...]

    @property
    def longest(self) -> int:
        """Input tokens of the prompt with its longest response."""
        prompt = self.prompt_end - self.start
        return prompt + max((span.end - span.start for span in self.responses), default=0)


class PackedBatch:
    """A micro-batch of prompt groups.

    Not a dataclass: Lightning walks into those to change the precision of floating-point inputs, which must not
    round weights and scores.

    Args:
        input_ids: the stream, ``(N,)``.
        position_ids: position of each token in its own conversation; all responses of a prompt start at its length.
        groups: where each group stands; on the host, so that attention never waits for the device.
        score_index: for each response token, in order, the position in the stream that predicts it, ``(M,)``.
        score_target: that token, ``(M,)``.
        score_response: the response it belongs to, ``(M,)``.
        prompt_index: the same for the tokens of the prompts, each prompt's first excepted, ``(P,)``.
        prompt_target: as `score_target`, ``(P,)``.
        prompt_group: the group it belongs to, ``(P,)``.
        prompt_tokens: scored tokens per prompt, ``(G,)``.
        tokens: tokens per response, ``(R,)``.
        group: the group of each response, ``(R,)``.
        role: its :class:`~orpo_lightning.records.Role`, ``(R,)``.
        label: its label, NaN where none, ``(R,)``.
        chosen: the responses that are the chosen one of a pair, in the order of the groups, ``(B,)``.
        rejected: the responses that are the rejected one, ``(B,)``, or empty if they were left out.
        judged: the responses that have a verdict: all but the mismatched ones.
        desirable: whether each of these is a chosen response or an unpaired one of label 1.
        mismatched: the responses to another prompt, one of each group, or empty.
        weight: row weights; 0 in a slot that only keeps the ranks in step, ``(G,)``.
        margin: score difference of the rows, NaN where none, ``(G,)``.
        row_ids: where each row came from.
        step: the global batch that this micro-batch is a part of.
        half_pairs: ids of the rows whose chosen and rejected responses are not one of each.
        unlabelled: ids of the rows with an unpaired response whose label is neither 0 nor 1.
        keys: what the content of each response, after its prompt, is known by; on the host, ``R`` of them.
        prompt_keys: the same for the prompts, ``G`` of them.
        real_rows: rows of a weight above 0; on the host.
    """

    input_ids: Tensor
    position_ids: Tensor
    groups: tuple[GroupSpan, ...]
    score_index: Tensor
    score_target: Tensor
    score_response: Tensor
    prompt_index: Tensor
    prompt_target: Tensor
    prompt_group: Tensor
    prompt_tokens: Tensor
    tokens: Tensor
    group: Tensor
    role: Tensor
    label: Tensor
    chosen: Tensor
    rejected: Tensor
    judged: Tensor
    desirable: Tensor
    mismatched: Tensor
    weight: Tensor
    margin: Tensor
    row_ids: tuple[str, ...]
    step: StepInfo
    half_pairs: tuple[str, ...]
    unlabelled: tuple[str, ...]
    keys: tuple[bytes, ...]
    prompt_keys: tuple[bytes, ...]
    real_rows: int

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def num_tokens(self) -> int:
        """Tokens that the model runs on."""
        return self.input_ids.numel()

    @property
    def longest(self) -> int:
        """Input tokens of the longest conversation."""
        return max(group.longest for group in self.groups)

    def pairs(self, table: ResponseLogps) -> PairLogps:
        """The responses that a model scored, as pairs.

        Raises:
            ValueError: rejected responses are in the batch, and a row of it is not a pair.
        """
        if self.rejected.numel():
            self._refuse_half_pairs()
        paired = self.group[self.chosen]
        has_rejected, has_prompt = self.rejected.numel() > 0, table.prompt_logps is not None
        chosen, chosen_tokens = table.logps[self.chosen], table.tokens[self.chosen]
        return PairLogps(
            chosen=chosen,
            chosen_tokens=chosen_tokens,
            rejected=table.logps[self.rejected] if has_rejected else None,
            rejected_tokens=table.tokens[self.rejected] if has_rejected else None,
            chosen_full=chosen + table.prompt_logps[paired] if table.prompt_logps is not None else None,
            chosen_full_tokens=chosen_tokens + table.prompt_tokens[paired] if has_prompt else None,
            margin=self.margin[paired],
            tokens_per_pair=self.step.tokens_per_pair,
            full_tokens_per_pair=self.step.full_tokens_per_pair,
        )

    def unpaired(self, table: ResponseLogps) -> UnpairedLogps:
        """The responses that a model scored, each by itself; those of pairs too.

        Raises:
            ValueError: an unpaired response has another label than 1 (desirable) or 0, or a row is half a pair.
        """
        if self.unlabelled:
            raise ValueError(f"the label of an unpaired response is 1 or 0: {', '.join(self.unlabelled)}")
        group, mismatched, pairs = self.group[self.judged], None, None
        if self.mismatched.numel():
            assert self.mismatched.numel() == len(self), "one mismatched response per prompt, or none at all"
            mismatched = table.logps[self.mismatched][group]
        if self.step.split_has_pairs:
            self._refuse_half_pairs()
            pairs = torch.searchsorted(self.judged, torch.stack([self.chosen, self.rejected]))
        return UnpairedLogps(
            logps=table.logps[self.judged],
            tokens=table.tokens[self.judged],
            desirable=self.desirable,
            weight=self.weight[group],
            mismatched=mismatched,
            pairs=pairs,
        )

    def _refuse_half_pairs(self) -> None:
        if self.half_pairs:
            raise ValueError(f"not one chosen and one rejected response: {', '.join(self.half_pairs)}")

    # the two names by which Lightning and the data loader recognise something that they can move
    def to(self, *args: Any, **kwargs: Any) -> PackedBatch:
        """This batch with its tensors on another device; out of page-locked memory nobody waits for the copies."""
        # Lightning asks for that with plain tensors only
        kwargs.setdefault("non_blocking", self.input_ids.is_pinned())
        return self._map("to", *args, **kwargs)

    def pin_memory(self) -> PackedBatch:
        """This batch in page-locked memory."""
        return self._map("pin_memory")

    def _map(self, method: str, *args: Any, **kwargs: Any) -> PackedBatch:
        def moved(value: Any) -> Any:
            return getattr(value, method)(*args, **kwargs) if isinstance(value, Tensor) else value

        return PackedBatch(**{name: moved(value) for name, value in vars(self).items()})


def response_key(prompt: Sequence[int], response: Sequence[int] = ()) -> bytes:
    """What a response to a prompt is known by, wherever it comes from; without a response, the prompt.

    Example:
        >>> response_key((5, 6), (7,)) == response_key((5,), (6, 7)), len(response_key((5, 6)))
        (False, 16)
    """
    ids = struct.pack(f"<{1 + len(prompt) + len(response)}I", len(prompt), *prompt, *response)
    return hashlib.blake2b(ids, digest_size=16).digest()


def pack(
    rows: Sequence[TokenizedRow],
    step: StepInfo,
    weights: Sequence[float] | None = None,
    *,
    roles: Collection[Role] = tuple(Role),
) -> PackedBatch:
    """Lay prompt groups out in one stream.

    Args:
        rows: the groups, in order.
        step: the global batch that they are a part of.
        weights: weights to use instead of the rows' own.
        roles: the responses of these roles are part of the stream, all others are left out.

    Example:
        >>> from orpo_lightning.records import TokenizedResponse
        >>> row = TokenizedRow("example:1", (5, 6), (
        ...     TokenizedResponse((7, 8, 2), Role.CHOSEN), TokenizedResponse((9, 2), Role.REJECTED)))
        >>> batch = pack([row], StepInfo(weight=1.0, tokens_per_pair=3.0, full_tokens_per_pair=4.0))
        >>> batch.input_ids.tolist(), batch.position_ids.tolist()
        ([5, 6, 7, 8, 9], [0, 1, 2, 3, 2])
        >>> batch.score_index.tolist(), batch.score_target.tolist()
        ([1, 2, 3, 1, 4], [7, 8, 2, 9, 2])
    """
    ids: list[int] = []
    positions: list[int] = []
    groups: list[GroupSpan] = []
    score_index: list[int] = []
    score_target: list[int] = []
    tokens: list[int] = []
    group_of: list[int] = []
    role_of: list[int] = []
    labels: list[float] = []
    prompt_index: list[int] = []
    prompt_target: list[int] = []
    keys: list[bytes] = []
    for row in rows:
        start, prompt_length = len(ids), len(row.prompt)
        prompt_end = start + prompt_length
        ids += row.prompt
        positions += range(prompt_length)
        prompt_index += range(start, prompt_end - 1)
        prompt_target += row.prompt[1:]
        spans = []
        for response in row.responses:
            if response.role not in roles:
                continue
            span = ResponseSpan(len(ids), len(ids) + len(response.ids) - 1)
            ids += response.ids[:-1]
            positions += range(prompt_length, prompt_length + len(response.ids) - 1)
            score_index += [prompt_end - 1, *range(*span)]
            score_target += response.ids
            keys.append(response_key(row.prompt, response.ids))
            tokens.append(len(response.ids))
            group_of.append(len(groups))
            role_of.append(response.role)
            labels.append(float("nan") if response.label is None else response.label)
            spans.append(span)
        groups.append(GroupSpan(start, prompt_end, tuple(spans)))

    def long(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    def real(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)

    role, token_counts = long(role_of), long(tokens)
    label = real(labels)
    chosen, rejected, mismatched = (
        (role == part).nonzero().flatten() for part in (Role.CHOSEN, Role.REJECTED, Role.MISMATCHED)
    )
    judged = (role != Role.MISMATCHED).nonzero().flatten()
    group = long(group_of)
    prompt_tokens = long([len(row.prompt) - 1 for row in rows])
    weights = [row.weight for row in rows] if weights is None else weights
    return PackedBatch(
        input_ids=long(ids),
        position_ids=long(positions),
        groups=tuple(groups),
        score_index=long(score_index),
        score_target=long(score_target),
        score_response=torch.arange(len(tokens)).repeat_interleave(token_counts),
        prompt_index=long(prompt_index),
        prompt_target=long(prompt_target),
        prompt_group=torch.arange(len(rows)).repeat_interleave(prompt_tokens),
        prompt_tokens=prompt_tokens,
        tokens=token_counts,
        group=group,
        role=role,
        label=label,
        chosen=chosen,
        rejected=rejected,
        judged=judged,
        desirable=((role == Role.CHOSEN) | ((role == Role.UNPAIRED) & (label == 1)))[judged],
        mismatched=mismatched,
        weight=real(weights),
        margin=real([float("nan") if row.margin is None else row.margin for row in rows]),
        row_ids=tuple(row.row_id for row in rows),
        step=step,
        half_pairs=tuple(row.row_id for row in rows if _is_half_a_pair(row)),
        unlabelled=tuple(row.row_id for row in rows if _is_unlabelled(row)),
        keys=tuple(keys),
        prompt_keys=tuple(response_key(row.prompt) for row in rows),
        real_rows=sum(weight > 0 for weight in weights),
    )


def unpack(batch: PackedBatch) -> list[TokenizedRow]:
    """The rows of a batch, from which :func:`pack` makes it again.

    Each has those of its responses that are part of the stream, and the weight that it has there.

    Example:
        >>> row = TokenizedRow("example:1", (5, 6), (TokenizedResponse((7, 8, 2), Role.CHOSEN),))
        >>> unpack(pack([row], StepInfo(weight=1.0, tokens_per_pair=3.0, full_tokens_per_pair=4.0))) == [row]
        True
    """
    stream, targets = batch.input_ids.tolist(), batch.score_target.split(batch.tokens.tolist())
    responses: list[list[TokenizedResponse]] = [[] for _ in batch.groups]
    for target, group, role, label in zip(
        targets, batch.group.tolist(), batch.role.tolist(), batch.label.tolist(), strict=True
    ):
        responses[group].append(TokenizedResponse(tuple(target.tolist()), Role(role), _or_none(label)))
    parts = zip(batch.row_ids, batch.groups, responses, batch.margin.tolist(), batch.weight.tolist(), strict=True)
    return [
        TokenizedRow(row_id, tuple(stream[span.start : span.prompt_end]), tuple(own), _or_none(margin), weight)
        for row_id, span, own, margin, weight in parts
    ]


def _or_none(value: float) -> float | None:
    return None if value != value else value


def _is_half_a_pair(row: TokenizedRow) -> bool:
    of_pairs = (Role.CHOSEN, Role.REJECTED)
    roles = sorted(response.role for response in row.responses if response.role in of_pairs)
    return bool(roles) and roles != [*of_pairs]


def _is_unlabelled(row: TokenizedRow) -> bool:
    return any(response.role is Role.UNPAIRED and response.label not in (0, 1) for response in row.responses)
