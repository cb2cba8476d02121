"""Which files of a folder make up a split."""

from __future__ import annotations

import re
from pathlib import Path

from orpo_lightning.data.files import KINDS

SPLIT_WORDS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev", "test", "eval")}
"""Words that mark a split, in names of files and folders and as names on the hub; the first that is there is taken."""

_SHARD = re.compile(r"([-_.]\d+)?([-_.]of[-_.]\d+)?$")


def files_of_split(folder: Path, asked: str | None, split: str) -> list[Path]:
    """The data files of a split, in the order of their names.

    The name of a file says which split it is of, or else the nearest folder above it whose name does. Where no name
    says anything, all files are read; what is hidden never is.

    Args:
        folder: the folder.
        asked: a word that the names of the wanted files hold; None is what marks the split.
        split: ``train`` or ``validation``.

    Raises:
        ValueError: there is no such file, or it cannot be told which ones are meant.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(KINDS))
    found = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    names = ", ".join(str(path.relative_to(folder)) for path in found)
    if not found:
        raise ValueError(f"{folder}: the folder holds no data files; accepted kinds: {', '.join(KINDS)}")
    if asked is not None:
        chosen = [path for path in found if any(_has_word(part, asked) for part in path.relative_to(folder).parts)]
        if not chosen:
            raise ValueError(f"{folder}: no file of the split {asked!r}; files: {names}")
        return chosen
    words = {path: _words(path, folder) for path in found}
    if not any(words.values()):
        return found
    for path, marks in words.items():
        if len({each for each, known in SPLIT_WORDS.items() if marks & set(known)}) > 1:
            raise ValueError(
                f"{path}: is it for training or for validation? Name the files, or set split to a word of it"
            )
    word = next((word for word in SPLIT_WORDS[split] if any(word in marks for marks in words.values())), None)
    if word is None:
        raise ValueError(f"{folder}: no file of the {split} split; files: {names}. Name one of them, or set split")
    chosen = [path for path, marks in words.items() if word in marks]
    kinds = sorted({_stem(path) for path in chosen if _has_word(path.name, word)})
    if len(kinds) > 1:
        raise ValueError(
            f"{folder}: several kinds of files are of the {split} split: {', '.join(kinds)}; set split to one of them"
        )
    return chosen


def _words(path: Path, folder: Path) -> set[str]:
    every = {word for words in SPLIT_WORDS.values() for word in words}
    for part in reversed(path.relative_to(folder).parts):
        marks = {word for word in every if _has_word(part, word)}
        if marks:
            return marks
    return set()


def _has_word(name: str, word: str) -> bool:
    # as a whole word: "train_prefs" has "train", "restrained" has not
    return re.search(rf"(?<![a-z]){re.escape(word.lower())}(?![a-z])", name.lower()) is not None


def _stem(path: Path) -> str:
    """The name without its kind and the number of its shard."""
    return _SHARD.sub("", path.name.partition(".")[0])
