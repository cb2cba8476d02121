"""Secrets, in the environment and in settings, and what is written in their place wherever text leaves the process.

A secret is the value of an environment variable or setting whose name says so (``HF_TOKEN``, ``api_key``), the same
inside of the text of a setting (`orpo_lightning.secret_texts`), or the user and password in a URL. In settings a secret
of the environment becomes a reference to its variable, ``${oc.env:HF_TOKEN}``, which is as good to a run that goes on;
everything else becomes `PLACEHOLDER`, which is refused where a value is read.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import quote

from orpo_lightning.secret_names import is_secret_name, is_secret_variable, strength_of
from orpo_lightning.secret_texts import NamedValue, named_values, says_none

PLACEHOLDER = "<secret>"
_SHORTEST = 8
"""Characters of a value that texts are searched for: shorter ones are parts of ordinary words and numbers."""
_REFERENCE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)[^}]*\}")
_ADDRESS = re.compile(r"(?<![\w+.-])[A-Za-z][\w+.-]*://[^\s'\"`]+")
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")
_USER = re.compile(r"(?<![\w+.-])([A-Za-z][\w+.-]*://)([^\s/?#'\"`]+)@")
_PARAMETER = re.compile(r"(?<=[?&;#])([\w.-]+)=([^\s'\",;)\]}&#]+)")
_OF_A_MESSAGE = {"role", "content", "text"}
"""The keys of a message of a chat. What else is in a mapping inside of what a model is told is not told to it."""
_SAVED = ("hyper_parameters", "datamodule_hyper_parameters")
"""The keys under which Lightning puts them into a checkpoint."""

_values: set[str] = set()
_words: set[str] = set()
"""Secrets that may be ordinary words elsewhere, and are such only after the name of one."""
_variables: set[str] = set()


def remember(settings: object) -> None:
    """Know the secrets among settings from now on, so that no text tells them.

    Args:
        settings: plain data, as they were read; references to the environment make the variables secret as well.
    """
    for value, strength in _leaves(settings, 0):
        is_secret = _is_secret(value, strength)
        if is_secret and not _REFERENCE.search(str(value)):
            _values.add(str(value))
        if isinstance(value, str):
            named = [] if is_secret or strength < 0 else list(named_values(value))
            _values.update(each.text for each in named if each.strength > 1)
            _words.update(each.text for each in named if each.strength == 1)
            users = [found[2] for found in _USER.finditer(value)]
            named_by = " ".join([*users, *(each.text for each in named)])
            _variables.update(_REFERENCE.findall(value if is_secret else named_by))


def remember_words(words: Sequence[str]) -> None:
    """The same of the options of a command line, ``--key value`` or ``--key=value``."""
    for key, value in _options(words):
        remember({key: _typed(value)})


def hide(text: str) -> str:
    """A text without secrets that are known, those of the environment and of settings, and those of addresses in it.

    What else it says stays: of rows and of code that are shown, nobody can tell what is a secret by a name alone.

    Example:
        >>> hide("git clone https://me:hunter2@example.com/x; password: swordfish")
        'git clone https://<secret>@example.com/x; password: swordfish'
    """
    values = {*_of_environment(), *_values}
    text = _without_credentials(_without(values, text))
    words = {*_words, *(value for value in values if len(value) < _SHORTEST)}
    if not words:
        return text
    # where the ends of lines are quoted a word goes on with the next line
    return _replace_named(text, lambda each: not words.isdisjoint((each.text, each.text.partition("\\n")[0])))


def hide_named(text: str) -> str:
    """The same without whatever follows the name of a secret: a message about what somebody has typed.

    Example:
        >>> hide_named("unrecognized arguments: --api_key=abc --limit=8")
        'unrecognized arguments: --api_key=<secret> --limit=8'
    """
    return _replace_named(hide(text), lambda each: each.strength >= 0)


def hide_values(settings: Any) -> Any:
    """Settings as they may be kept: plain data without secrets.

    Example:
        >>> hide_values({"pad_token": "<pad>", "url": "https://me:hunter2@example.com", "password": 123})
        {'pad_token': '<pad>', 'url': 'https://<secret>@example.com', 'password': '<secret>'}
        >>> hide_values({"headers": ["x-api-key: abc"], "args": "--limit 8 --password abc", "prompt": "password: x"})
        {'headers': ['x-api-key: <secret>'], 'args': '--limit 8 --password <secret>', 'prompt': 'password: x'}
    """
    return _hidden(settings, 0, _of_environment())


def hide_yaml(text: str) -> str:
    """The same of a configuration; its text is left as it is where it holds none."""
    import yaml

    settings = yaml.safe_load(text)
    hidden = hide_values(settings)
    return text if hidden == settings else yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True)


def hide_words(words: Sequence[str]) -> list[str]:
    """The words of a command line as they may be shown.

    Example:
        >>> hide_words(["fit", "--trainer.logger.api_key", "abc", "--data.limit=8"])
        ['fit', '--trainer.logger.api_key', '<secret>', '--data.limit=8']
    """
    hidden = list(words)
    for i, word in enumerate(words):
        key, equals, value = word.partition("=")
        if key.startswith("--") and equals:
            hidden[i] = f"{key}={_hidden_word(key, value)}"
        else:
            key = words[i - 1] if i and words[i - 1].startswith("--") and "=" not in words[i - 1] else ""
            hidden[i] = _hidden_word(key, word)
    return hidden


def secret_option(words: Sequence[str]) -> str | None:
    """The first option of a command line that holds a secret, and no reference to one; None where there is none.

    Example:
        >>> secret_option(["fit", "--data.limit=8", "--logger.api_key", "abc"])
        '--logger.api_key'
    """
    for key, value in _options(words):
        typed = {key: _typed(value)}
        if "${" not in value and hide_values(typed) != typed:
            return f"--{key}"
    return None


def left_out(settings: object, key: str = "") -> Iterator[str]:
    """The keys of those settings whose value was left out when they were written."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from left_out(value, f"{key}.{name}" if key else str(name))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from left_out(value, key)
    elif isinstance(settings, str) and PLACEHOLDER in settings:
        yield key


def without_secrets(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the trainer as it may be kept: hyperparameters that a module has saved hold no secrets."""
    saved = {key: checkpoint[key] for key in _SAVED if key in checkpoint}
    hidden = {key: hide_values(value) for key, value in saved.items()}
    return {**checkpoint, **{key: value for key, value in hidden.items() if value != saved[key]}}


@contextmanager
def hidden_output() -> Iterator[None]:
    """Within it, what is printed has no secrets; a traceback that ends the process has none after it either."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("Any", _Stream(stream)) for stream in streams)
    sys.excepthook = _print_exception
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Stream:
    """A stream of text that is written without secrets; all else is left to the one that it is around.

    Whoever puts a function of their own in the place of `write`, as Weights & Biases does to keep what is printed, gets
    what is written, and not what it was made from.
    """

    def __init__(self, stream: Any) -> None:
        self._around = stream
        self._write = stream.write

    @property
    def write(self) -> Callable[[str], int]:
        write = self._write

        def write_hidden(text: str) -> int:
            write(hide(text))
            return len(text)

        return write_hidden

    @write.setter
    def write(self, function: Callable[[str], int]) -> None:
        self._write = function

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_around"], name)


def _print_exception(kind: Any, error: Any, trace: Any) -> None:
    import traceback

    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))


def _leaves(value: object, strength: int) -> Iterator[tuple[object, int]]:
    """The values in settings, each with how much its name says that it is a secret."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, _below(strength, name))
    elif isinstance(value, list | tuple):
        for each, own in _elements(value, strength):
            yield from _leaves(each, own)
    else:
        yield value, strength


def _elements(values: Iterable[object], strength: int) -> Iterator[tuple[object, int]]:
    """The elements of a list, which may be the words of a command line: there an option names the word after it."""
    before: object = None
    for each in values:
        is_option = strength >= 0 and isinstance(before, str) and _OPTION.fullmatch(before) is not None
        yield each, _below(strength, before) if is_option and not str(each).startswith("-") else strength
        before = each


def _below(strength: int, name: object) -> int:
    # of what is made from secret arguments the class is none
    if name == "class_path":
        return 0
    own = strength_of(str(name))
    if strength < 0:
        return strength if name in _OF_A_MESSAGE else own
    return max(strength, own) if strength else own


def _is_secret(value: object, strength: int) -> bool:
    if isinstance(value, str):
        return strength > 0 and value != PLACEHOLDER and not says_none(value)
    return strength > 1 and isinstance(value, int | float) and not isinstance(value, bool)


def _hidden(value: Any, strength: int, variables: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _hidden(each, _below(strength, name), variables) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(each, own, variables) for each, own in _elements(value, strength)]
    is_secret = _is_secret(value, strength)
    if is_secret and str(value) in variables:
        return f"${{oc.env:{variables[str(value)]}}}"
    if not isinstance(value, str):
        return PLACEHOLDER if is_secret else value
    for known, variable in variables.items():
        if len(known) >= _SHORTEST:
            value = value.replace(known, f"${{oc.env:{variable}}}")
    if not is_secret:
        value = _without(_values, value)
        if strength >= 0:
            value = _replace_named(value, lambda each: each.strength > 0)
        return _without_credentials(value)
    rest, references = _REFERENCE.subn("", value)
    return value if references and rest.strip().lower() in ("", "bearer", "basic", "token") else PLACEHOLDER


def _of_environment() -> dict[str, str]:
    """The secrets of the environment, each with the name of its variable, the longest first."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        is_one = name in _variables or is_secret_variable(name)
        if is_one and value and not (len(value) >= _SHORTEST and os.path.exists(value)):
            found.setdefault(value, name)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _without(values: set[str], text: str) -> str:
    for form in _forms(values):
        text = text.replace(form, PLACEHOLDER)
    return text


def _forms(values: set[str]) -> list[str]:
    """What texts may hold of secrets, the longest first: also as they are quoted, and the lines of long ones."""
    whole = {value for value in values if len(value) >= _SHORTEST}
    lines = {line for value in whole for line in value.splitlines() if len(line) >= 2 * _SHORTEST}
    found = {
        form
        for value in whole | lines
        for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value), quote(value, safe=""))
    }
    return sorted(found, key=len, reverse=True)


def _without_credentials(text: str) -> str:
    """A text without the users, passwords and tokens of the addresses in it."""
    return _ADDRESS.sub(lambda found: _PARAMETER.sub(_without_value, _USER.sub(_without_user, found[0])), text)


def _without_user(found: re.Match[str]) -> str:
    user, _, password = _REFERENCE.sub("", found[2]).partition(":")
    # git@ of ssh says nothing, and a password may be a reference
    if not password and (found[2] != user or not found[1].lower().startswith("http")):
        return found[0]
    return f"{found[1]}{PLACEHOLDER}@"


def _without_value(found: re.Match[str]) -> str:
    is_secret = is_secret_name(found[1]) and _is_secret(found[2], 1) and not found[2].startswith("${")
    return f"{found[1]}={PLACEHOLDER}" if is_secret else found[0]


def _replace_named(text: str, is_hidden: Callable[[NamedValue], bool]) -> str:
    """A text without those values that follow the name of a secret and are to be hidden."""
    parts, end = [], 0
    for each in named_values(text):
        if each.start >= end and is_hidden(each):
            parts += [text[end : each.start], PLACEHOLDER]
            end = each.stop
    return "".join([*parts, text[end:]])


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in zip(words, (*words, "")[1:], strict=True):
        key, equals, value = word.partition("=")
        if key.startswith("--"):
            yield key.removeprefix("--"), value if equals or following.startswith("--") else following


def _typed(value: str) -> Any:
    """What is typed as a mapping or a list as these, and any other value as it is, also one that cannot be read."""
    if not value.lstrip().startswith(("{", "[")):
        return value
    import yaml

    from orpo_lightning.yaml_aliases import check_aliases

    try:
        check_aliases(value)
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


def _hidden_word(key: str, value: str) -> str:
    typed = _typed(value)
    hidden = hide_values({key: typed})[key]
    if isinstance(hidden, str):
        return hidden
    if hidden == typed:
        return value
    import yaml

    return yaml.safe_dump(hidden, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf).strip()
