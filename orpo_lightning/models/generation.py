"""Responses to prompts in tokens, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from orpo_lightning.models.compilation import without_compilation
from orpo_lightning.models.export import end_tokens


@dataclass(frozen=True)
class Sampling:
    """How responses are chosen.

    Args:
        max_new_tokens: longest response, tokens, its end included.
        temperature: of the distribution that is sampled from; 0 takes the likeliest token.
        top_p: sample from the likeliest tokens that together have this probability.
        seed: of the randomness.
        batch_size: prompts at a time; with a temperature, other sizes give other samples.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range; accepted: 1 or more")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature} is out of range; accepted: 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p} is out of range; accepted: above 0, up to 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed} is out of range; accepted: 0 to 2**63 - 1")


@dataclass(frozen=True)
class Completion:
    """A response.

    Args:
        text: the response without its end.
        tokens: how many tokens were generated, the end included.
        finish_reason: ``eos``, or ``length`` where `max_new_tokens` cut it off.
    """

    text: str
    tokens: int
    finish_reason: Literal["eos", "length"]


@torch.no_grad()
def generate(
    net: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    row_ids: Sequence[str],
    sampling: Sampling = Sampling(),
    progress: Callable[[int], object] = int,
) -> list[Completion]:
    """Respond to prompts; the longest go first, and the results come in the order of the prompts.

    The model's mode and the random state are left as they were.

    Args:
        net: a Hugging Face model, or a peft model around one.
        tokenizer: its tokenizer.
        prompts: the prompts, in tokens.
        row_ids: their names, for errors.
        sampling: how to choose.
        progress: called with the number of prompts done since the last call.

    Raises:
        ValueError: a prompt leaves no room in the model's positions for `max_new_tokens`; names its row.
    """
    _check_room(net, prompts, row_ids, sampling.max_new_tokens)
    ends = end_tokens(net, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    completions: dict[int, Completion] = {}
    modes = {module: module.training for module in net.modules()}  # some may be kept in another one than the rest
    # an adapter hands its config to the model below it, which would keep it
    own_configs = {module: module.generation_config for module in modes if "generation_config" in vars(module)}
    try:
        net.eval()
        # in place of the model's own config: its penalties and limits would fill whatever this one leaves open
        net.generation_config = _config(sampling, ends, pad)
        devices = [net.device] if net.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), without_compilation():
            torch.manual_seed(sampling.seed)
            for start in range(0, len(order), sampling.batch_size):
                rows = order[start : start + sampling.batch_size]
                ids, mask = _padded_left([prompts[i] for i in rows], pad, net.device)
                output = net.generate(input_ids=ids, attention_mask=mask)  # type: ignore[operator]  # a mixin
                for i, new in zip(rows, output[:, ids.shape[1] :].tolist(), strict=True):
                    completions[i] = _completion(new, ends, tokenizer)
                progress(len(rows))
    finally:
        vars(net).pop("generation_config", None)
        for module, own_config in own_configs.items():
            module.generation_config = own_config
        for module, training in modes.items():
            module.training = training
    return [completions[i] for i in range(len(prompts))]


def _check_room(
    net: PreTrainedModel, prompts: Sequence[Sequence[int]], row_ids: Sequence[str], max_new_tokens: int
) -> None:
    positions = getattr(net.config.get_text_config(), "max_position_embeddings", None)
    for row_id, prompt in zip(row_ids, prompts, strict=True):
        if positions is not None and len(prompt) + max_new_tokens > positions:
            raise ValueError(
                f"{row_id}: the prompt has {len(prompt)} tokens, which with max_new_tokens = {max_new_tokens} is more "
                f"than the model's {positions} positions; "
                + (f"accepted: {positions - len(prompt)} or less" if len(prompt) < positions else "shorten the prompt")
            )


def _config(sampling: Sampling, ends: list[int], pad: int) -> GenerationConfig:
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=bool(sampling.temperature),
        eos_token_id=ends,
        pad_token_id=pad,
        **chosen,
    )


def _padded_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _completion(new: list[int], ends: list[int], tokenizer: PreTrainedTokenizerBase) -> Completion:
    # a row that has ended is filled with padding, which may be an end token itself: the first one counts
    end = next((i for i, token in enumerate(new) if token in ends), None)
    text = tokenizer.decode(new[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return Completion(text, len(new) if end is None else end + 1, "length" if end is None else "eos")
