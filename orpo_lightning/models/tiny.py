"""Small random models, one of each architecture that the packed layout is exact on, and a tokenizer for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast as FastTokenizer

VOCABULARY = 97
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    **_TOKENS,
}
_OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "dropout": 0.0,
    **_TOKENS,
}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    **_TOKENS,
}
_HEAD_8 = {**_LLAMA, "head_dim": 8}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", _LLAMA),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _HEAD_8),
    "phi": ("phi", {**_LLAMA, "num_key_value_heads": 4}),
    "phi3": ("phi3", _LLAMA),
    "opt": ("opt", _OPT),
    "opt-350m": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt2": ("gpt2", _GPT2),
    "gpt-neox": ("gpt_neox", {**_LLAMA, "num_key_value_heads": 4}),
    "olmo2": ("olmo2", _LLAMA),
    "cohere": ("cohere", {**_LLAMA, "logit_scale": 0.25}),
    "granite": ("granite", {**_LLAMA, "logits_scaling": 4.0}),
    "gemma2": ("gemma2", {**_HEAD_8, "sliding_window": 4}),
    "gemma3": ("gemma3_text", {**_HEAD_8, "sliding_window": 4}),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, **_TOKENS}),
}
"""Model type and configuration by name; ``opt-350m`` has that model's projections and post-norm."""


def tiny_model(shape: str = "opt", dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A model of two layers and 32 hidden units, with random weights large enough that every part matters.

    Example:
        >>> tiny_model("llama").num_parameters()
        24800
    """
    model_type, options = SHAPES[shape]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options))
        for parameter in net.parameters():
            # norms around 1; biases, which are initialised to 0, like everything else
            center = 1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0
            torch.nn.init.normal_(parameter, mean=center, std=0.2)
    torch.nn.Module.to(net, dtype)
    net.train()
    return net


def train_tiny_tokenizer(texts: Iterable[str], vocabulary: int) -> FastTokenizer:
    """A byte-level BPE tokenizer that encodes any text, trained on these."""
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = FastTokenizer(
        tokenizer_object=bpe,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        extra_special_tokens=special[3:],
        model_max_length=2048,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
