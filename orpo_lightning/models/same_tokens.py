"""Whether a reference reads the same tokens as the policy."""

from __future__ import annotations

from dataclasses import replace

from orpo_lightning.models.damage import DamagedFileError
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig, read_config
from orpo_lightning.models.pretrained import base_of_adapter, checkpoint_of, resolve
from orpo_lightning.models.tokenizer import Tokenizer, load_tokenizer, read_tokenizer


def check_same_tokens(reference: ReferenceConfig, policy: PolicyConfig) -> None:
    """Insist that a reference of its own reads the policy's tokens: a log-ratio is of the same token under both.

    Their tokenizers decide. Embeddings may be padded to different sizes, and what is padded with is never scored. The
    sizes decide only where a model has no tokenizer.

    Raises:
        ValueError: they do not share a tokenizer; names both models.
    """
    if reference.name_or_path is None:
        return
    configs = [policy, replace(policy, name_or_path=reference.name_or_path, revision=reference.revision)]
    own, other = (_tokenizer_or_none(config) for config in configs)
    if own is not None and other is not None:
        reason = _difference(own, other)
    else:
        sizes = [_vocabulary_size(config) for config in configs]
        reason = f"their vocabularies have {sizes[1]} and {sizes[0]} tokens" if sizes[0] != sizes[1] else None
    if reason:
        raise ValueError(
            f"model.reference.name_or_path = {reference.name_or_path!r} and model.policy.name_or_path = "
            f"{policy.name_or_path!r} do not share a tokenizer ({reason}), and a log-ratio compares the same tokens "
            "under both; accepted: a reference with the tokenizer of the policy"
        )


def _tokenizer_or_none(config: PolicyConfig) -> Tokenizer | None:
    try:
        if checkpoint_of(config.name_or_path):
            return load_tokenizer(config.name_or_path)
        return read_tokenizer(config.name_or_path, config.revision)
    except DamagedFileError:
        raise
    except (ValueError, FileNotFoundError):  # the data may be read with another model's
        return None


def _difference(policy: Tokenizer, reference: Tokenizer) -> str | None:
    padding = {each.pad_token for each in (policy, reference) if each.pad_token != each.eos_token}
    differing = {token for token, _ in policy.get_vocab().items() ^ reference.get_vocab().items()} - padding
    return f"{len(differing)} tokens differ, such as {min(differing)!r}" if differing else None


def _vocabulary_size(config: PolicyConfig) -> int:
    path = resolve(config.name_or_path, config.revision, config.trust_remote_code)
    base = base_of_adapter(path)
    if base is not None:
        return _vocabulary_size(replace(config, name_or_path=base[0], revision=base[1]))
    return int(read_config(config, path).get_text_config().vocab_size)
