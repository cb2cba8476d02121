"""Which settings and variables of the environment hold a secret, as their names say."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

_ALWAYS = {
    *("secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "credential", "credentials"),
    *("apikey", "apikeys", "authorization", "cookie", "cookies", "dsn", "jwt"),
    *("webhook", "webhooks"),
}
"""Words that make a name that of a secret wherever they stand in it."""
_AT_THE_END = {"auth", "bearer", "passcode", "pat", "pw", "sig", "signature"}
"""Those that do so as the last: ``auth_type`` holds none."""
_ABOUT = {
    *("file", "files", "filename", "path", "paths", "dir", "directory", "folder", "home", "sock", "socket", "location"),
    *("name", "names", "column", "columns", "field", "fields", "env", "var", "variable", "policy", "type", "kind"),
    *("method", "mode", "scheme", "algorithm", "format", "length", "len", "size", "count", "digits", "limit", "level"),
    *("timeout", "ttl", "expiry", "interval", "retries", "version", "provider", "manager", "store", "backend"),
}
"""What a name ends with that says something of a secret, such as where it is: its value is none."""
_SECRET_PATHS = {"webhook", "webhooks"}
"""Addresses whose path is the secret, as that of Slack's is."""
_HOLDERS = {
    *("access", "account", "admin", "api", "app", "auth", "bearer", "bot", "client", "deploy", "encryption", "license"),
    *("personal", "private", "refresh", "root", "security", "service", "session", "shared", "signing", "subscription"),
    *("gpg", "master", "pgp", "rsa", "ssh", "ssl", "tls", "user"),
    *("anthropic", "aws", "azure", "cohere", "comet", "datadog", "deepseek", "discord", "fireworks", "gcp", "gemini"),
    *("github", "gitlab", "google", "groq", "hf", "hub", "huggingface", "kaggle", "langfuse", "langsmith", "mailgun"),
    *("mistral", "mlflow", "neptune", "ngc", "nvidia", "openai", "openrouter", "perplexity", "pinecone", "replicate"),
    *("runpod", "sendgrid", "sentry", "serper", "slack", "stripe", "tavily", "telegram", "together", "twilio"),
    *("vertex", "wandb", "xai"),
}
"""What comes before ``key``, ``keys`` and ``tokens`` where they are secrets; there are many that are none."""
_OF_A_VOCABULARY = {
    *("added", "assistant", "audio", "begin", "bos", "byte", "class", "cls", "decoder", "end", "eod", "eom", "eos"),
    *("eot", "extra", "fim", "first", "forced", "image", "last", "mask", "max", "min", "new", "newline", "next", "num"),
    *("pad", "padding", "per", "prefix", "reserved", "response", "sep", "separator", "sos", "special", "start", "stop"),
    *("suffix", "system", "think", "tool", "turn", "unk", "unknown", "video", "vision"),
}
"""What a name with ``token`` holds where it is one of a vocabulary, or a number of them."""
_ORDINARY = {
    *("auth", "bearer", "cookie", "cookies", "credential", "credentials", "pass", "pat", "secret", "secrets"),
    *("signature", "sig", "token", "tokens"),
}
"""Names of secrets that are ordinary words in a sentence."""
_IN_ONE_WORD = re.compile(r"(access|api|auth|hf|hub|pass|secret)(keys?|tokens?)")
_TEXTS = {
    *("prompt", "prompts", "instruction", "instructions", "question", "questions", "template", "templates"),
    *("system", "conversation", "conversations"),
}
"""The last word of a name of what a model is told, which may speak of secrets and holds none.

Of ``auth_template``, ``operating_system`` and ``header_template`` it is not: see `_is_told`.
"""
_OVER_DATA = {
    *("all", "backward", "band", "dry", "each", "encoder", "eval", "every", "first", "forward", "full", "high", "last"),
    *("low", "max", "min", "multi", "next", "num", "one", "per", "second", "single", "test", "train", "two", "val"),
    *("validation", "warmup"),
}
"""What a name with ``pass`` holds where it is no password."""
_VARIABLE = re.compile(
    r"SECRET|CREDENTIAL|PASSWORD|PASSWD|PASSPHRASE|(KEY|TOKEN|PASS)$|(^|_)(KEYS?|TOKEN|PASS|PAT|JWT)(_|\d|$)|_PWD$"
)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret; of a key with dots its last part tells.

    Example:
        >>> [is_secret_name(name) for name in ("trainer.logger.api_key", "hub_tokens", "judgePassword")]
        [True, True, True]
        >>> [is_secret_name(name) for name in ("pad_token", "max_tokens_per_batch", "sort_key", "api_key_file")]
        [False, False, False, False]
    """
    return strength_of(name) > 0


@cache
def strength_of(name: str) -> int:
    """2 where any value of a setting of this name is a secret, 1 where a text is, 0 where none is.

    Of -1 a text is what a model is told, in which no name of a secret counts.

    Example:
        >>> [strength_of(name) for name in ("password", "api_key", "notes", "system_prompt", "auth_template")]
        [2, 1, 0, -1, 0]
    """
    words = words_of(name.rpartition(".")[2])
    if words and words[-1] in _TEXTS:
        return -1 if _is_told(words) else 0
    if words[-1:] == ["value"]:
        del words[-1]
    if _is_about(words):
        return 0
    if _ALWAYS & set(words):
        return 2
    of_keys = any(key in ("key", "keys") and holder in _HOLDERS for holder, key in pairwise(words))
    in_one_word = any(_IN_ONE_WORD.fullmatch(word) for word in words)
    return int(of_keys or in_one_word or _ends_as_secret(words))


@cache
def is_unmistakable(name: str) -> bool:
    """Whether the name of a secret is that of one in any sentence, and no word as ``token`` or ``pass`` alone.

    Example:
        >>> [is_unmistakable(name) for name in ("api_key", "hub_token", "password", "token", "answer_token", "pass")]
        [True, True, True, False, False, False]
    """
    *before, last = [word for word in words_of(name.rpartition(".")[2]) if word != "value"] or [""]
    if last in ("sig", "token", "tokens"):
        return bool(_HOLDERS & set(before))
    return is_secret_name(name) and (bool(before) or last not in _ORDINARY)


@cache
def is_secret_variable(name: str) -> bool:
    """Whether a variable of the environment of this name holds a secret.

    Example:
        >>> [is_secret_variable(name) for name in ("HF_TOKEN", "PGPASSWORD", "SSL_KEY_FILE", "MAX_TOKENS")]
        [True, True, False, False]
    """
    words = words_of(name.upper())
    if _is_about(words) or words == ["pwd"]:  # the latter is the folder that a shell is in
        return False
    return _VARIABLE.search(name.upper()) is not None or is_secret_name(name.upper())


def words_of(name: str) -> list[str]:
    """The words of a name, as their case and what is between them tell.

    Example:
        >>> words_of("smtp_pass"), words_of("AutoModelForCausalLM")
        (['smtp', 'pass'], ['auto', 'model', 'for', 'causal', 'lm'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def _is_told(words: list[str]) -> bool:
    """Whether what has a name that ends in one of `_TEXTS` is what a model is told."""
    *before, last = words
    if last == "system":
        return not before
    is_of_a_chat = last not in ("template", "templates") or not before or before[-1] in {"chat", *_TEXTS}
    return is_of_a_chat and not is_secret_name("_".join(before))


def _is_about(words: list[str]) -> bool:
    *before, last = words or [""]
    is_the_secret = last in ("path", "paths") and bool(_SECRET_PATHS & set(before[-1:]))
    return last in _ABOUT and not is_the_secret


def _ends_as_secret(words: list[str]) -> bool:
    *before, last = words or [""]
    is_held = bool(_HOLDERS & set(before[-1:]))
    is_of_a_vocabulary = bool(_OF_A_VOCABULARY & set(before))
    return (
        last in _AT_THE_END
        or (last == "token" and (is_held or not is_of_a_vocabulary))
        or (last == "tokens" and is_held and not is_of_a_vocabulary)
        or (last == "pass" and not _OVER_DATA & set(before))
    )
