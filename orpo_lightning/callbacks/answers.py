"""What the policy answers to a few validation prompts, before its first step and after its last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from orpo_lightning.data.texts import texts_of
from orpo_lightning.models.checkpoint import tokenizer_of
from orpo_lightning.models.generation import Sampling, generate
from orpo_lightning.models.loading import PolicyConfig
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tokenizer import Tokenizer, load_tokenizer
from orpo_lightning.records import TokenizedRow
from orpo_lightning.run_folder import ANSWERS_FILE
from orpo_lightning.summary.answers import Answer, write_answers
from orpo_lightning.trainer_parts import data_of


@dataclass(frozen=True)
class _Asked:
    """A prompt: its row, its tokens, and its last turn as text."""

    row_id: str
    ids: tuple[int, ...]
    text: str


def why_no_answers(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Why a run can answer no prompts, in a sentence; None if it can."""
    if not isinstance(getattr(pl_module, "policy", None), LogpModel):
        return f"There are no answers to show: {type(pl_module).__name__} has no policy of this package."
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        return "There are no answers to show: no process has all of the weights while the run lasts."
    if not any(name.startswith("validation") for name in getattr(data_of(trainer), "rows", {})):
        return "There are no answers to show: there is no validation data to take prompts from."
    return None


def answer_prompts(trainer: Trainer, pl_module: LightningModule, count: int, max_new_tokens: int) -> None:
    """Answer the first validation prompts with the policy as it is, into ``answers.jsonl``; training goes on as if this
    had not been.

    Args:
        trainer: of the fit.
        pl_module: its module, which has a policy.
        count: how many prompts, different ones.
        max_new_tokens: longest answer, tokens.
    """
    policy, config, data = pl_module.policy, pl_module.policy_config, data_of(trainer)
    assert isinstance(policy, LogpModel)
    assert isinstance(config, PolicyConfig)
    tokenizer = load_tokenizer(*tokenizer_of(data, config))
    positions = getattr(policy.net.config.get_text_config(), "max_position_embeddings", None)
    room = None if positions is None else positions - max_new_tokens
    asked = _first_prompts(data, tokenizer, count, room)
    if not asked:
        return
    prompts, row_ids = [each.ids for each in asked], [each.row_id for each in asked]
    with trainer.precision_plugin.forward_context():
        completions = generate(policy.net, tokenizer, prompts, row_ids, Sampling(max_new_tokens))
    step = trainer.global_step
    answers = [
        Answer(step, each.row_id, each.text, completion.text, completion.finish_reason == "eos", completion.tokens)
        for each, completion in zip(asked, completions, strict=True)
    ]
    write_answers(Path(trainer.default_root_dir) / ANSWERS_FILE, step, answers)


def _first_prompts(data: Any, tokenizer: Tokenizer, count: int, room: int | None) -> list[_Asked]:
    split = next(name for name in data.rows if name.startswith("validation"))
    rows = list(_different(data.rows[split], count, room))
    texts = _texts(data, split, [row.row_id for row in rows])
    asked = []
    for row in rows:
        shown = texts.get(row.row_id) or str(tokenizer.decode(list(row.prompt), skip_special_tokens=True))
        asked.append(_Asked(row.row_id, row.prompt, shown))
    return asked


def _different(rows: Any, count: int, room: int | None) -> Iterator[TokenizedRow]:
    seen: set[tuple[int, ...]] = set()
    for row in rows:
        if len(seen) == count:
            return
        if row.prompt not in seen and (room is None or len(row.prompt) <= room):
            seen.add(row.prompt)
            yield row


def _texts(data: Any, split: str, row_ids: list[str]) -> Mapping[str, str]:
    """The last turn of each prompt, where the data is of this package."""
    source = getattr(data, "val", {}).get(split.partition("/")[2])
    report = getattr(data, "reports", {}).get(split)
    if source is None or report is None:
        return {}
    found = texts_of(source, "validation", report.format, row_ids)
    return {row_id: row.prompt[-1].content for row_id, row in found.items()}
