"""The arithmetic that a training step needs: a closed form of the model's size and of the tokens of its batches.

What counts is what the mathematics asks for. What is computed once more to save memory (logits, checkpointed layers,
scores of attention) is not in it, nor is a query with a key that it may not see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from orpo_lightning.models.quantization import numbers_in
from orpo_lightning.packing import GroupSpan, PackedBatch


@dataclass(frozen=True)
class Counts:
    """What of a batch costs work.

    Args:
        tokens: tokens that run through the decoder.
        scored: positions that run through the head.
        attended: pairs of a query and a key that it sees, in one head of one layer.
    """

    tokens: int = 0
    scored: int = 0
    attended: int = 0

    @classmethod
    def of(cls, batch: PackedBatch, prompt_logps: bool) -> Counts:
        """Those of a batch whose prompts are computed once."""
        return cls._of(batch, prompt_logps, batch.groups)

    @classmethod
    def without_sharing(cls, batch: PackedBatch, prompt_logps: bool) -> Counts:
        """Those of the same responses if each ran behind a prompt of its own, still without padding."""
        alone = (
            GroupSpan(group.start, group.prompt_end, (span,)) for group in batch.groups for span in group.responses
        )
        return cls._of(batch, prompt_logps, alone)

    @classmethod
    def _of(cls, batch: PackedBatch, prompt_logps: bool, groups: Iterable[GroupSpan]) -> Counts:
        tokens = attended = 0
        for group in groups:
            prompt = group.prompt_end - group.start
            tokens += prompt
            attended += _causal(prompt)
            for span in group.responses:
                response = span.end - span.start
                tokens += response
                attended += response * prompt + _causal(response)
        scored = batch.score_index.numel() + (batch.prompt_index.numel() if prompt_logps else 0)
        return cls(tokens, scored, attended)


_WITHOUT_SCORES = ("linear_attention", "conv", "moe")
"""Layers in which no query is multiplied with a key."""


def _causal(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


def _replaced(net: nn.Module) -> set[nn.Module]:
    """What peft keeps beside the copy that is trained in its place, and runs only with the adapter switched off."""
    wrappers = (module for module in net.modules() if hasattr(module, "modules_to_save"))
    originals = (getattr(wrapper, "original_module", None) for wrapper in wrappers)
    return {part for original in originals if isinstance(original, nn.Module) for part in original.modules()}


def _attention_width(config: PreTrainedConfig) -> int:
    layers = range(config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None) or ["full_attention" for _ in layers]
    return sum(_width_of_a_layer(config.per_layer_config[i]) for i in layers if kinds[i] not in _WITHOUT_SCORES)


def _width_of_a_layer(config: PreTrainedConfig) -> int:
    heads: int = getattr(config, "num_attention_heads", 0)
    if heads == 0:  # a state space model
        return 0
    if hasattr(config, "qk_nope_head_dim"):  # latent attention, where head_dim is a part of a key
        size: int = (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim) // 2
    else:
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * size


@dataclass(frozen=True)
class ModelSize:
    """What of a model costs work.

    Args:
        linear: weights that each token is multiplied with, without the head.
        trained_linear: those of them that are trained.
        head: weights of the head.
        trained_head: those of them that are trained.
        attention: heads x size of a head, the mean of that of keys and of values, summed over the layers.
    """

    linear: int
    trained_linear: int
    head: int
    trained_head: int
    attention: int

    @classmethod
    def of(cls, net: PreTrainedModel) -> ModelSize | None:
        """The size of a causal language model, adapters included; None where its configuration does not tell it."""
        config = net.config.get_text_config()
        try:
            attention = _attention_width(config)
            experts: int | None = getattr(config, "num_experts_per_tok", None)
        # other names than the usual ones; or one for each layer, which transformers refuses to read for all
        except (AttributeError, RuntimeError):
            return None
        output = net.get_output_embeddings()
        of_head, replaced = set(output.modules()), _replaced(net)
        linear = trained = head = trained_head = 0
        # a decoder without its head; what sees or hears beside it does not run
        for module in {*net.get_decoder().modules(), *of_head}:
            for parameter in () if module in replaced else module.parameters(recurse=False):
                if module in of_head and parameter.ndim == 2:
                    used = numbers_in(parameter)
                    head, trained_head = head + used, trained_head + used * parameter.requires_grad
                elif parameter.ndim >= 2 and not isinstance(module, nn.Embedding):
                    used = numbers_in(parameter)
                    if "Expert" in type(module).__name__:  # those of a layer, of which each token takes a few
                        if experts is None:
                            return None
                        used = used // parameter.shape[0] * experts
                    linear, trained = linear + used, trained + used * parameter.requires_grad
        return cls(linear, trained, head, trained_head, attention)

    def flops(self, counts: Counts) -> int:
        """Floating-point operations of a forward and backward pass, a multiplication and an addition counted as two.

        ``(4 W + 2 W') N + (4 V + 2 V') M + 12 A S``: W weights per token, W' the trained of these, N tokens; V and V'
        the same of the head, M scored positions; A width of all attention, S pairs of a query and a key.

        Example:
            >>> ModelSize(linear=100, trained_linear=100, head=50, trained_head=50, attention=8).flops(
            ...     Counts(tokens=3, scored=2, attended=6))
            2976
        """
        return (
            (4 * self.linear + 2 * self.trained_linear) * counts.tokens
            + (4 * self.head + 2 * self.trained_head) * counts.scored
            + 12 * self.attention * counts.attended
        )

    def forward_flops(self, counts: Counts) -> int:
        """Those of a forward pass alone, ``2 W N + 2 V M + 4 A S``: what a reference needs.

        Example:
            >>> ModelSize(linear=100, trained_linear=0, head=50, trained_head=0, attention=8).forward_flops(
            ...     Counts(tokens=3, scored=2, attended=6))
            992
        """
        return 2 * self.linear * counts.tokens + 2 * self.head * counts.scored + 4 * self.attention * counts.attended
