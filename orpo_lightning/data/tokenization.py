"""From text to tokens: the prompt as at inference, each response after it, the end-of-sequence token once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo_lightning.models.pretrained import resolve
from orpo_lightning.records import Message, PreferencePair, Prompt, Role, TokenizedResponse, TokenizedRow

DEFAULT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The template of tokenizers that have none: that of the ORPO authors' code, whose tokenizer adds the BOS token."""

_BATCH = 1000


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a chat template in any case.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        resolve(name_or_path, revision), revision=revision, trust_remote_code=False
    )
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
        prompts = tokenize_prompts(tokenizer, batch)
        chosen = _encode(tokenizer, [pair.chosen for pair in batch], special=False)
        rejected = _encode(tokenizer, [pair.rejected for pair in batch], special=False)
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


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair | Prompt]) -> list[list[int]]:
    """The tokens of each conversation up to where the model answers, the same in training and generation.

    Raises:
        ValueError: the chat template refuses a conversation; names the row.
    """
    rendered = []
    for pair in pairs:
        try:
            rendered.append(render_prompt(tokenizer, pair.prompt))
        except TemplateError as error:
            raise ValueError(f"{pair.row_id}: the chat template refuses the conversation: {error}") from error
    encoded = _encode(tokenizer, rendered, special=True)
    special = tokenizer.all_special_tokens
    for i, pair in enumerate(pairs):
        if any(token in message.content for message in pair.prompt for token in special):
            encoded[i] = _encode_in_pieces(tokenizer, pair.prompt)
    return encoded


def _encode_in_pieces(tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...]) -> list[int]:
    """Encode a prompt whose text imitates special tokens: those of the template count, those of the text do not."""
    rendered = render_prompt(tokenizer, prompt)
    # the template is rendered around place holders of the private use area
    holders = tuple(Message(message.role, f"\ue000{i}\ue001") for i, message in enumerate(prompt))
    pieces = re.split("\ue000(\\d+)\ue001", render_prompt(tokenizer, holders))
    contents = [message.content for message in prompt]
    if _joined(pieces, contents) != rendered:
        contents = [content.strip() for content in contents]  # as many templates do
    if _joined(pieces, contents) != rendered:
        raise ValueError(
            "the chat template changes the text of a message that imitates a special token of the tokenizer, so that "
            f"the two cannot be told apart: {rendered[:200]!r}"
        )
    ids = []
    for i, piece in enumerate(pieces):
        is_content = i % 2 == 1
        ids += _encode(tokenizer, [contents[int(piece)] if is_content else piece], special=not is_content)[0]
    return ids


def _joined(pieces: Sequence[str], contents: Sequence[str]) -> str:
    """Template text at the even places, at the odd ones the numbers of the contents between."""
    return "".join(contents[int(piece)] if i % 2 else piece for i, piece in enumerate(pieces))


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    encoded: Any = tokenizer(
        texts,
        add_special_tokens=False,  # they stand in the rendered template already
        split_special_tokens=not special,
        return_attention_mask=False,
        verbose=False,  # rows longer than the model takes are dropped and counted later
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids
