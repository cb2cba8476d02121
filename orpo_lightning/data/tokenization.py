"""From text to tokens: the prompt as at inference, each response after it, the end-of-sequence token once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from jinja2 import TemplateError

from orpo_lightning.data.formats import RowError
from orpo_lightning.models.tokenizer import Tokenizer, encode, end_of_turn, render_prompt, special_tokens
from orpo_lightning.records import Message, Prompt, TextRow, TokenizedResponse, TokenizedRow

_BATCH = 1000
_HOLDER = "\ue000{}\ue001"


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
    encoded = iter(encode(tokenizer, texts, special=False))
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
    found |= zip(texts, encode(tokenizer, list(texts.values()), special=True), strict=True)
    imitation = re.compile("|".join(map(re.escape, special_tokens(tokenizer))))
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
        ids += encode(tokenizer, [contents[int(piece)] if is_content else piece], special=not is_content)[0]
    return ids


def _joined(pieces: Sequence[str], contents: Sequence[str]) -> str:
    """Template text at the even places, at the odd ones the numbers of the contents between."""
    return "".join(contents[int(piece)] if i % 2 else piece for i, piece in enumerate(pieces))
