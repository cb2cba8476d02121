"""Training steps that lack one or the other idea behind the packed batch, all to the same loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from orpo_lightning import DPO, ORPO, Objective
from orpo_lightning.data.batching import step_info
from orpo_lightning.models.head import OutputHead, target_logps
from orpo_lightning.models.logp_model import LogpModel, TokenLogps
from orpo_lightning.packing import PackedBatch, pack
from orpo_lightning.records import ResponseLogps, TokenizedRow

OBJECTIVES = {"ORPO": ORPO, "DPO": DPO}
Step = tuple[list[TokenizedRow], PackedBatch]
Scored = Callable[[LogpModel, Step, bool], ResponseLogps]


def as_a_run(model: LogpModel, step: Step, prompt: bool) -> ResponseLogps:
    """What a run does: packed, with logits in blocks that are computed again in the backward pass; or padded."""
    return model(step[1], prompt)


def packed(model: LogpModel, step: Step, prompt: bool) -> ResponseLogps:
    """One stream without padding; each response behind a prompt of its own, logits of all positions at once."""
    rows, batch = step
    members = [replace(row, responses=(each,)) for row in rows for each in row.responses]
    alone = pack(members, batch.step).to(batch.input_ids.device)
    found = _with_all_logits(model, alone, prompt)
    if found.prompt_logps is None:
        return found
    return replace(found, prompt_logps=found.prompt_logps[::2])


def prompt_once(model: LogpModel, step: Step, prompt: bool) -> ResponseLogps:
    """Both responses behind one prompt."""
    return _with_all_logits(model, step[1], prompt)


def needed_positions(model: LogpModel, step: Step, prompt: bool) -> ResponseLogps:
    """Logits only where the objective asks for a log-probability, still all at once."""

    def all_at_once(head: OutputHead, hidden: Tensor, targets: Tensor, *others: object) -> Tensor:
        return target_logps(head.logits(hidden), targets)

    with patch.object(OutputHead, "per_token", all_at_once):
        return model(step[1], prompt)


RUNGS: dict[str, tuple[str, Scored]] = {
    "padded": ("padded rows, all logits", as_a_run),
    "packed": ("packed, no padding", packed),
    "prompt once": ("prompt computed once", prompt_once),
    "needed positions": ("logits at needed positions only", needed_positions),
    "blocks": ("logits in blocks (the default)", as_a_run),
    "compiled": ("layers compiled", as_a_run),
}


def _with_all_logits(model: LogpModel, batch: PackedBatch, prompt: bool) -> ResponseLogps:
    def of_all_positions(model: LogpModel, batch: PackedBatch, prompt: bool) -> TokenLogps:
        logits = OutputHead.of(model.net).logits(model._packed_hidden(batch, model.kernels.attention))
        responses = target_logps(logits[batch.score_index], batch.score_target)
        return responses, target_logps(logits[batch.prompt_index], batch.prompt_target) if prompt else None

    with patch.object(LogpModel, "token_statistics", of_all_positions):
        return model(batch, prompt)


def steps_of(rows: Sequence[TokenizedRow], pairs: int, count: int) -> list[Step]:
    """The first rows as steps."""
    members = [[rows[i] for i in range(start, start + pairs)] for start in range(0, pairs * count, pairs)]
    return [(each, pack(each, step_info(each))) for each in members]


def train(
    model: LogpModel, objective: Objective, optimizer: Any, step: Step, score: Scored, is_last: bool = True
) -> Tensor:
    """A training step, or a micro-batch of one, whose loss it returns.

    Args:
        model: what is trained.
        objective: by what.
        optimizer: its optimizer.
        step: the rows and their packed batch.
        score: the rung.
        is_last: whether the optimizer steps after it.
    """
    batch = step[1]
    policy = batch.pairs(score(model, step, objective.needs_prompt_logps))
    reference = batch.pairs(known_reference(batch)) if objective.needs_reference else None
    loss = objective(policy, reference).loss.mean()
    loss.backward()
    if is_last:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return loss.detach()


def known_reference(batch: PackedBatch) -> ResponseLogps:
    """A reference that is known beforehand, of some values: what a cached one is to a step."""
    logps = -2.0 * batch.tokens.float()
    return ResponseLogps(logps, batch.tokens, batch.group, batch.role, batch.label, None, batch.prompt_tokens)
