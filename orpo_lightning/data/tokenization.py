"""From text to tokens: the prompt as at inference, each response after it, the end-of-sequence token once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo_lightning.models.pretrained import resolve
from orpo_lightning.records import Message, PreferencePair, Role, TokenizedResponse, TokenizedRow

DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The template of tokenizers that have none: that of the ORPO authors' code."""

_BATCH = 1000


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a chat template in any case.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve(name_or_path), revision=revision)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name_or_path!r} has no end-of-sequence token; responses could not end")
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE
    return tokenizer


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """The conversation as text, up to where the model answers."""
    turns = [{"role": message.role, "content": message.content} for message in prompt]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def tokenize_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair]) -> Iterator[TokenizedRow]:
    """Tokenize pairs in order; the boundary between prompt and response is one in tokens by construction."""
    remaining = iter(pairs)
    while batch := list(islice(remaining, _BATCH)):
        prompts = _encode(tokenizer, [render_prompt(tokenizer, pair.prompt) for pair in batch])
        chosen = _encode(tokenizer, [pair.chosen for pair in batch])
        rejected = _encode(tokenizer, [pair.rejected for pair in batch])
        for pair, prompt_ids, chosen_ids, rejected_ids in zip(batch, prompts, chosen, rejected, strict=True):
            yield TokenizedRow(
                row_id=pair.row_id,
                prompt=tuple(prompt_ids),
                responses=(
                    TokenizedResponse((*chosen_ids, tokenizer.eos_token_id), Role.CHOSEN),
                    TokenizedResponse((*rejected_ids, tokenizer.eos_token_id), Role.REJECTED),
                ),
                margin=pair.margin,
                weight=pair.weight,
            )


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # special tokens stand in the rendered template already
    encoded: Any = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
