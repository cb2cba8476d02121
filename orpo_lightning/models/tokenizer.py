"""The tokenizer of a model: its chat template, its special tokens, and text to tokens."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo_lightning.models.damage import DamagedFileError, naming_damage
from orpo_lightning.models.pretrained import base_of_adapter, checkpoint_of, resolve
from orpo_lightning.records import Message

Tokenizer = PreTrainedTokenizerBase
HOLDER = "\ue000"
"""Stands for the text of a message: of the private use area."""
_DATE = datetime(2025, 1, 1)
_DIRECTIVES = [f"%{flag}{letter}" for flag in ("", "-") for letter in string.ascii_letters]
# takes the place of the function of transformers; jinja is told there to leave out the line break after a block
_ON_THAT_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace({each!r}, {_DATE.strftime(each)!r})" for each in _DIRECTIVES if _DATE.strftime(each) != each)
    + "|replace('%%', '%') }}{% endmacro %}\n"
)

DEFAULT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The template of tokenizers that have none: that of the ORPO authors' code, whose tokenizer adds the BOS token."""


def load_tokenizer(name_or_path: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with a chat template in any case. Code that comes with it never runs.

    An adapter that has none takes its base model's, and a checkpoint that of its run; no model is loaded for it.

    Args:
        name_or_path: as in :func:`~orpo_lightning.models.pretrained.resolve`.
        revision: branch, tag or commit of a hub id.

    Raises:
        ValueError: there is no tokenizer, it is damaged or needs code of its own, or it has no end-of-sequence token.
    """
    checkpoint = checkpoint_of(name_or_path)
    if checkpoint is not None:
        # what is exported there has a tokenizer from here
        from orpo_lightning.models.checkpoint import load_its_tokenizer, read_checkpoint

        return load_its_tokenizer(read_checkpoint(checkpoint))
    tokenizer = read_tokenizer(name_or_path, revision)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name_or_path!r} has no end-of-sequence token; responses could not end")
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE
    return tokenizer


def read_tokenizer(name_or_path: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model folder or hub id as it is.

    Args:
        name_or_path: as in :func:`~orpo_lightning.models.pretrained.resolve`, but no checkpoint.
        revision: branch, tag or commit of a hub id.

    Raises:
        ValueError: there is no tokenizer, it is damaged or needs code of its own.
    """
    path = resolve(name_or_path, revision)
    with naming_damage(f"the tokenizer of {name_or_path!r}", path):
        base = None if (Path(path) / "tokenizer_config.json").is_file() else base_of_adapter(path)
    if base is not None:
        return read_tokenizer(*base)
    what = f"the tokenizer of {name_or_path!r}"
    try:
        with naming_damage(what, path):
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except DamagedFileError:
        raise
    except Exception as error:  # the libraries raise anything at all, over several lines and without a name
        raise ValueError(f"{what} cannot be loaded: {' '.join(str(error).split())}") from error
    return tokenizer


def render(tokenizer: Tokenizer, turns: Sequence[Message], *, answering: bool) -> str:
    """A conversation as text.

    Templates that write the date write 1 January 2025, so that the same row has the same tokens on every day.

    Args:
        tokenizer: whose chat template to use.
        turns: the conversation.
        answering: whether the text ends where the model answers.

    Raises:
        jinja2.TemplateError: the template refuses the conversation, or fails on it.
    """
    messages = [{"role": message.role, "content": message.content} for message in turns]
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _ON_THAT_DATE + template
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answering, chat_template=template
            )
        )
    except TemplateError:
        raise
    except Exception as error:  # a template is a program, and fails like one
        raise TemplateError(f"{type(error).__name__}: {error}") from error


def render_prompt(tokenizer: Tokenizer, prompt: Sequence[Message]) -> str:
    """A conversation as text, up to where the model answers."""
    return render(tokenizer, prompt, answering=True)


@dataclass(frozen=True)
class ResponseFrame:
    """What a template puts around a response: most often nothing before it, and an end.

    Args:
        tokens: before it, up to the last special token: a turn's beginning, in templates without a generation prompt.
        text: what comes then and goes on into the response; Llama 2 puts a space there.
        end: the token that ends the response.
    """

    tokens: tuple[int, ...]
    text: str
    end: int


def response_frame(tokenizer: Tokenizer) -> ResponseFrame:
    """What the chat template puts around a response.

    It ends with the special token that the template puts after an assistant's turn, else EOS: they differ where a chat
    model keeps its base model's EOS (Gemma's ``<end_of_turn>``, Phi-3's ``<|end|>``).
    """
    assert isinstance(tokenizer.eos_token_id, int)
    prompt = [Message("user", "?")]
    try:
        start = render(tokenizer, prompt, answering=True)
        whole = render(tokenizer, [*prompt, Message("assistant", HOLDER)], answering=False)
    except TemplateError:
        return ResponseFrame((), "", tokenizer.eos_token_id)
    said, _, after = whole.partition(HOLDER)
    ids = encode(tokenizer, [after.lstrip()], special=True)[0]
    end = ids[0] if ids and ids[0] in special_tokens(tokenizer).values() else tokenizer.eos_token_id
    before = said.removeprefix(start) if said.startswith(start) else ""
    text = special_pattern(tokenizer).split(before)[-1]
    tokens = encode_after(tokenizer, [before.removesuffix(text)], special=True)[0]
    return ResponseFrame(tuple(tokens), text, end)


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that ends a response."""
    return response_frame(tokenizer).end


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """The token of text that the tokenizer has no tokens for; None where nothing is unknown, as with bytes."""
    found = tokenizer.unk_token_id
    other = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id, end_of_turn(tokenizer)}
    return found if isinstance(found, int) and found not in other else None


def special_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Finds what looks like a special token in a text."""
    return re.compile("|".join(map(re.escape, sorted(special_tokens(tokenizer), key=len, reverse=True))))


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that no text becomes, by their names."""
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """All that tokenization depends on: vocabulary, rules, special tokens, chat template, code."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = [type(tokenizer).__name__, rules, sorted(special_tokens(tokenizer).items()), tokenizer.chat_template]
    code = [Path(__file__).read_text(encoding="utf-8"), transformers.__version__, tokenizers.__version__]
    return repr([*parts, tokenizer.eos_token, *code])


def encode(tokenizer: Tokenizer, texts: list[str], *, special: bool) -> list[list[int]]:
    """The tokens of texts, and none added.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
        special: whether what looks like a special token is one, as in a rendered template, or text like any other.
    """
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


def encode_after(tokenizer: Tokenizer, texts: list[str], *, special: bool) -> list[list[int]]:
    """The tokens of texts that go on after other text: none begins with a space that only a beginning has.

    SentencePiece puts a space before whatever it encodes. Here each text follows a character that merges with nothing,
    whose tokens are cut off again. (Where it is unknown, it would merge with unknown text: then the space stays.)

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
        special: as in :func:`encode`.
    """
    held = encode(tokenizer, [HOLDER], special=False)[0]
    if not _adds_space(tokenizer) or tokenizer.unk_token_id in held:
        return encode(tokenizer, texts, special=special)
    encoded = encode(tokenizer, [HOLDER + text for text in texts], special=special)
    if any(ids[: len(held)] != held for ids in encoded):  # the character has no tokens of its own
        return encode(tokenizer, texts, special=special)
    return [ids[len(held) :] for ids in encoded]


def _adds_space(tokenizer: Tokenizer) -> bool:
    alone, held, after = encode(tokenizer, ["a", HOLDER, f"{HOLDER}a"], special=False)
    return after[: len(held)] == held and after[len(held) :] != alone
