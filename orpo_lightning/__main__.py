"""The command line, ``orpo-lightning`` and ``python -m orpo_lightning``: finds the verb before anything is imported."""

from __future__ import annotations

import difflib
import os
import sys

from orpo_lightning.verbs import TRAINER_VERBS, VERBS


def main() -> None:
    """Run the verb that the command line names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    verb = arguments[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(VERBS)}"
        sys.exit(f"orpo-lightning: no verb is named {verb!r}; {hint}")
    # an objective in a file of the current folder is found by its name, as under python -m
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())

    from orpo_lightning import cli

    if verb in TRAINER_VERBS:
        cli.run_trainer()
    else:
        cli.print_objectives()


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{text}" for verb, text in VERBS.items())
    return (
        "usage: orpo-lightning VERB [options]\n\n"
        f"Preference optimization of language models.\n\nverbs:\n{verbs}\n\n"
        "example:\n  orpo-lightning fit --config configs/orpo.yaml --model.objective.lambda_ 0.2\n\n"
        "'orpo-lightning VERB --help' lists the options of a verb."
    )


if __name__ == "__main__":
    main()
