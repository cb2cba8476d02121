"""From text to tokens: the prompt as at inference, each response after it, the end-of-sequence token once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from jinja2 import TemplateError

from orpo_lightning.data.columns import RowError
from orpo_lightning.models.tokenizer import (
    HOLDER,
    ResponseFrame,
    Tokenizer,
    encode,
    encode_after,
    render_prompt,
    response_frame,
    special_pattern,
)
from orpo_lightning.records import Message, Prompt, TextRow, TokenizedResponse, TokenizedRow

REFUSED, LOST, IMITATES = "refused_by_template", "lost_by_template", "imitates_special_token"
TEMPLATE_REASONS = (REFUSED, LOST, IMITATES)
EMPTY_PROMPT, IDENTICAL_TOKENS = "empty_prompt", "identical_tokens"
_BATCH = 1000
_HOLDER = HOLDER + "{}\ue001"


def tokenize_rows(tokenizer: Tokenizer, rows: Iterable[TextRow]) -> Iterator[tuple[TextRow, TokenizedRow | RowError]]:
    """Tokenize rows in order; the boundary between prompt and response is one in tokens by construction.

    A row whose prompt the template refuses comes with a :class:`RowError`.
    """
    frame = response_frame(tokenizer)
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        yield from zip(batch, _tokenize_batch(tokenizer, batch, frame), strict=True)


def _tokenize_batch(
    tokenizer: Tokenizer, rows: Sequence[TextRow], frame: ResponseFrame
) -> list[TokenizedRow | RowError]:
    prompts = encode_prompts(tokenizer, [row.prompt for row in rows])
    texts = [frame.text + response.text for row in rows for response in row.responses]
    encoded = iter(encode_after(tokenizer, texts, special=False))
    found: list[TokenizedRow | RowError] = []
    for row, prompt in zip(rows, prompts, strict=True):
        responses = tuple(
            TokenizedResponse((*frame.tokens, *next(encoded), frame.end), each.role, each.label)
            for each in row.responses
        )
        if isinstance(prompt, PromptError):
            found.append(RowError(prompt.reason, row.row_id, str(prompt)))
        elif len({response.ids for response in responses}) < len(responses):
            found.append(RowError(IDENTICAL_TOKENS, row.row_id, "the responses differ as text, but not in tokens"))
        else:
            found.append(TokenizedRow(row.row_id, tuple(prompt), responses, row.margin, row.weight))
    return found


class PromptError(ValueError):
    """A conversation that cannot be rendered as it is. `reason` is the name its row is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Sequence[Message]]) -> list[list[int] | PromptError]:
    """The tokens of conversations up to where the model answers, in training as at inference."""
    texts: dict[int, str] = {}
    found: dict[int, list[int] | PromptError] = {}
    for i, prompt in enumerate(prompts):
        try:
            texts[i] = render_prompt(tokenizer, prompt)
        except TemplateError as error:
            found[i] = PromptError(REFUSED, f"the chat template refuses the conversation: {error}")
    for i, detail in _lost_turns(tokenizer, [prompts[i] for i in texts], list(texts)):
        found[i] = PromptError(LOST, detail)
        del texts[i]
    found |= zip(texts, encode(tokenizer, list(texts.values()), special=True), strict=True)
    imitation = special_pattern(tokenizer)
    for i, text in texts.items():
        if any(imitation.search(message.content) for message in prompts[i]):
            found[i] = _encode_in_pieces(tokenizer, prompts[i], text)
        if not found[i]:
            found[i] = PromptError(EMPTY_PROMPT, "the prompt has no tokens; the first token of a response needs one")
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


def _lost_turns(
    tokenizer: Tokenizer, prompts: Sequence[Sequence[Message]], places: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Those conversations of which the template leaves a turn out: many know no roles but user and assistant."""
    lost: dict[tuple[str, ...], str | None] = {}
    for place, prompt in zip(places, prompts, strict=True):
        roles = tuple(message.role for message in prompt)
        if roles not in lost:
            lost[roles] = _lost_role(tokenizer, roles)
        if lost[roles] is not None:
            yield place, f"the chat template leaves out a turn of the role {lost[roles]!r}"


def _lost_role(tokenizer: Tokenizer, roles: Sequence[str]) -> str | None:
    holders = [Message(role, _HOLDER.format(i)) for i, role in enumerate(roles)]
    try:
        text = render_prompt(tokenizer, holders)
    except TemplateError:  # it does with place holders what it does not do with the text
        return None
    return next((each.role for each in holders if each.content not in text), None)


def _encode_in_pieces(tokenizer: Tokenizer, prompt: Sequence[Message], rendered: str) -> list[int] | PromptError:
    """Encode a prompt whose text imitates special tokens: those of the template count, those of the text do not."""
    # the template is rendered around place holders of the private use area
    holders = tuple(Message(message.role, _HOLDER.format(i)) for i, message in enumerate(prompt))
    try:
        pieces = re.split(_HOLDER.format("(\\d+)"), render_prompt(tokenizer, holders))
    except TemplateError:
        pieces = [""]
    contents = [message.content for message in prompt]
    if _joined(pieces, contents) != rendered:
        contents = [content.strip() for content in contents]  # as many templates do
    if _joined(pieces, contents) != rendered:
        return PromptError(
            IMITATES,
            "the chat template changes the text of a message that imitates a special token of the tokenizer, so that "
            f"the two cannot be told apart: {rendered[:200]!r}",
        )
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        text, special = (contents[int(piece)], False) if i % 2 else (piece, True)
        ids += (encode_after if ids else encode)(tokenizer, [text], special=special)[0]
    return ids


def _joined(pieces: Sequence[str], contents: Sequence[str]) -> str:
    """Template text at the even places, at the odd ones the numbers of the contents between."""
    return "".join(contents[int(piece)] if i % 2 else piece for i, piece in enumerate(pieces))
