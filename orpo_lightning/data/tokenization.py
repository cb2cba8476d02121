"""From text to tokens: the prompt as at inference, each response after it, the end-of-sequence token once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import tokenizers
import transformers
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo_lightning.data.formats import RowError
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.records import Message, Prompt, TextRow, TokenizedResponse, TokenizedRow

Tokenizer = PreTrainedTokenizerBase

DEFAULT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The template of tokenizers that have none: that of the ORPO authors' code, whose tokenizer adds the BOS token."""

_BATCH = 1000
_HOLDER = "\ue000{}\ue001"


def load_tokenizer(name_or_path: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with a chat template in any case.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
        resolve(name_or_path, revision), revision=revision, trust_remote_code=False
    )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name_or_path!r} has no end-of-sequence token; responses could not end")
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE
    return tokenizer


def render_prompt(tokenizer: Tokenizer, prompt: Sequence[Message]) -> str:
    """The conversation as text, up to where the model answers."""
    turns = [{"role": message.role, "content": message.content} for message in prompt]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that ends a response: the special one that the template puts after an assistant's turn, else EOS.

    They differ where a chat model keeps its base model's EOS (Gemma's ``<end_of_turn>``, Phi-3's ``<|end|>``).
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _HOLDER.format(0)}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:
        rendered = ""
    after = _encode(tokenizer, [rendered.partition(_HOLDER.format(0))[2].lstrip()], special=True)[0]
    ends_turn = after and after[0] in _special_tokens(tokenizer).values()
    return int(after[0] if ends_turn else tokenizer.eos_token_id)


def tokenize_rows(tokenizer: Tokenizer, rows: Iterable[TextRow]) -> Iterator[tuple[TextRow, TokenizedRow | RowError]]:
    """Tokenize rows in order; the boundary between prompt and response is one in tokens by construction.

    A row whose prompt the template refuses comes with a :class:`RowError`.
    """
    end = end_of_turn(tokenizer)
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        yield from zip(batch, _tokenize_batch(tokenizer, batch, end), strict=True)


def _tokenize_batch(tokenizer: Tokenizer, rows: Sequence[TextRow], end: int) -> list[TokenizedRow | RowError]:
    prompts = encode_prompts(tokenizer, [row.prompt for row in rows])
    texts = [response.text for row in rows for response in row.responses]
    encoded = iter(_encode(tokenizer, texts, special=False))
    found: list[TokenizedRow | RowError] = []
    for row, prompt in zip(rows, prompts, strict=True):
        responses = tuple(TokenizedResponse((*next(encoded), end), each.role, each.label) for each in row.responses)
        if isinstance(prompt, PromptError):
            found.append(RowError("refused_by_template", row.row_id, str(prompt)))
        else:
            found.append(TokenizedRow(row.row_id, tuple(prompt), responses, row.margin, row.weight))
    return found


class PromptError(ValueError):
    """A conversation that the chat template refuses, or whose text cannot be told from the template's."""


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Sequence[Message]]) -> list[list[int] | PromptError]:
    """The tokens of conversations up to where the model answers, in training as at inference."""
    texts: dict[int, str] = {}
    found: dict[int, list[int] | PromptError] = {}
    for i, prompt in enumerate(prompts):
        try:
            texts[i] = render_prompt(tokenizer, prompt)
        except TemplateError as error:
            found[i] = PromptError(f"the chat template refuses the conversation: {error}")
    found |= zip(texts, _encode(tokenizer, list(texts.values()), special=True), strict=True)
    imitation = re.compile("|".join(map(re.escape, _special_tokens(tokenizer))))
    for i, text in texts.items():
        if any(imitation.search(message.content) for message in prompts[i]):
            found[i] = _encode_in_pieces(tokenizer, prompts[i], text)
    return [found[i] for i in range(len(prompts))]


def tokenize_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of prompts to answer.

    Raises:
        ValueError: the chat template refuses a conversation; names the row.
    """
    found = []
    for prompt, ids in zip(prompts, encode_prompts(tokenizer, [each.prompt for each in prompts]), strict=True):
        if isinstance(ids, PromptError):
            raise ValueError(f"{prompt.row_id}: {ids}")
        found.append(ids)
    return found


def _encode_in_pieces(tokenizer: Tokenizer, prompt: Sequence[Message], rendered: str) -> list[int] | PromptError:
    """Encode a prompt whose text imitates special tokens: those of the template count, those of the text do not."""
    # the template is rendered around place holders of the private use area
    holders = tuple(Message(message.role, _HOLDER.format(i)) for i, message in enumerate(prompt))
    pieces = re.split(_HOLDER.format("(\\d+)"), render_prompt(tokenizer, holders))
    contents = [message.content for message in prompt]
    if _joined(pieces, contents) != rendered:
        contents = [content.strip() for content in contents]  # as many templates do
    if _joined(pieces, contents) != rendered:
        return PromptError(
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


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """All that tokenization depends on: vocabulary, rules, special tokens, chat template, version."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = [type(tokenizer).__name__, rules, sorted(_special_tokens(tokenizer).items()), tokenizer.chat_template]
    return repr([*parts, tokenizer.eos_token, transformers.__version__, tokenizers.__version__])


def _encode(tokenizer: Tokenizer, texts: list[str], *, special: bool) -> list[list[int]]:
    if not tokenizer.is_fast:
        encoded: Any = tokenizer(
            texts,
            add_special_tokens=False,  # they stand in the rendered template already
            split_special_tokens=not special,
            return_attention_mask=False,
            verbose=False,  # rows longer than the model takes are dropped and counted later
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids
    backend: Any = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = not special
    try:
        # without the offsets of the tokens in the text, which take a third of the time
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = False
