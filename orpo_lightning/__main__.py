"""The command line, ``orpo-lightning`` and ``python -m orpo_lightning``: finds the verb before anything is imported."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

from orpo_lightning import __version__
from orpo_lightning.secrets import hidden_output, hide, remember_words
from orpo_lightning.signals import ending_at_once
from orpo_lightning.verbs import ENTRY_POINTS, HELP, OTHER_NAMES

TRACEBACK_VARIABLE = "ORPO_LIGHTNING_TRACEBACK"


def main() -> None:
    """Run the verb that the command line names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        print(f"orpo-lightning {__version__}")
        return
    verb = arguments[0]
    if verb not in ENTRY_POINTS:
        near = [OTHER_NAMES[verb]] if verb in OTHER_NAMES else difflib.get_close_matches(verb, HELP, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(HELP)}"
        sys.exit(f"orpo-lightning: no verb is named {verb!r}; {hint}")
    # an objective in a file of the current folder is found by its name, as under python -m
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())

    module, _, function = ENTRY_POINTS[verb].partition(":")
    getattr(importlib.import_module(module), function)()


def console() -> None:
    """What the installed command runs: :func:`main`, with errors of one line, and without secrets in what it prints."""
    try:
        with ending_at_once(), hidden_output():
            remember_words(sys.argv[1:])
            main()
    except BrokenPipeError:  # whoever read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE) or not _is_a_mistake(error):
            raise
        from orpo_lightning.command_line.messages import sentence_of

        hint = "" if _says_all(error) else f"\n(set {TRACEBACK_VARIABLE}=1 to see where)"
        sys.exit(hide(f"orpo-lightning: {sentence_of(str(error))}{hint}"))


def _is_a_mistake(error: Exception) -> bool:
    """Whether it tells a user of something that can be set right, and no programmer of a bug."""
    of_lightning = type(error).__name__ == "MisconfigurationException"  # which is not imported here
    return of_lightning or isinstance(error, (ValueError, OSError, ModuleNotFoundError, ArithmeticError, MemoryError))


def _says_all(error: Exception) -> bool:
    """Whether this package has refused something, and its message is all there is to say."""
    import traceback

    *_, last = traceback.extract_tb(error.__traceback__)
    ours = last.filename.startswith(os.path.dirname(__file__)) and (last.line or "").startswith("raise ")
    of_a_type = "Union subtypes" in str(error)  # raised by jsonargparse around one of ours
    return ours or of_a_type


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{text}" for verb, text in HELP.items())
    return (
        "usage: orpo-lightning VERB [options]\n\n"
        f"Preference optimization of language models.\n\nverbs:\n{verbs}\n\n"
        "example:\n  orpo-lightning fit --config orpo --model.objective.lambda_ 0.2\n\n"
        "options of a verb: orpo-lightning VERB --help\nversion: orpo-lightning --version"
    )


if __name__ == "__main__":
    console()
