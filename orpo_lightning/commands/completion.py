"""``orpo-lightning completion``: what makes a shell complete verbs, settings and their values."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable

from orpo_lightning.commands.arguments import VerbParser
from orpo_lightning.verbs import ENTRY_POINTS, HELP, OF_SETTINGS

_FILES = ("ckpt_path", "data.train", "data.val", "model.policy.name_or_path", "model.reference.name_or_path")
_PREAMBLE = {
    "bash": """
_orpo_lightning_configs() { compgen -W "%s" -- "$1"; compgen -f -- "$1"; }
""",
    "zsh": """
_orpo_lightning_configs() { _alternative 'shipped:shipped:(%s)' 'files:file:_files'; }
""",
}


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser("completion", "Print a script that makes a shell complete this command.")
    parser.add_argument("shell", choices=list(_PREAMBLE), help="put its line into the start-up file of the shell")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    shell = make_parser().parse_args(sys.argv[2:]).shell

    import shtab

    from orpo_lightning.command_line.config_files import shipped_configs

    preamble = _PREAMBLE[shell] % " ".join(shipped_configs())
    print(shtab.complete(_whole_parser(), shell, preamble=preamble))


def _whole_parser() -> argparse.ArgumentParser:
    """All verbs in one parser, which is never asked to parse anything."""
    parser = argparse.ArgumentParser(prog="orpo-lightning", allow_abbrev=False)
    verbs = parser.add_subparsers()
    of_run, of_data = list(_settings(with_trainer=True)), list(_settings(with_trainer=False))
    for verb, text in HELP.items():
        module = importlib.import_module(ENTRY_POINTS[verb].partition(":")[0])
        if verb in OF_SETTINGS:
            parser_of_verb = verbs.add_parser(verb, help=text)
            _add_settings(parser_of_verb, of_data if verb == "data" else of_run)
            if verb == "data":
                parser_of_verb.add_argument("--show", help="how many rows to print")
                parser_of_verb.add_argument("--dropped", help="list the rows that a reason dropped")
        elif hasattr(module, "make_parser"):
            verbs.add_parser(verb, help=text, parents=[module.make_parser()], add_help=False)
        else:
            verbs.add_parser(verb, help=text)
    return parser


def _settings(with_trainer: bool) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    from lightning import Trainer

    from orpo_lightning.command_line.options import default_options, options_of, options_of_run
    from orpo_lightning.objectives import get_objective, list_objectives

    options = [*default_options(), *((*options_of(Trainer, "trainer"), *options_of_run()) if with_trainer else ())]
    for name in list_objectives():
        options += options_of(get_objective(name), "model.objective")
    for option in {option.key: option for option in options}.values():
        yield option.key, option.summary, list_objectives() if option.key == "model.objective" else option.choices


def _add_settings(parser: argparse.ArgumentParser, settings: Iterable[tuple[str, str, tuple[str, ...]]]) -> None:
    import shtab

    config = parser.add_argument("--config", "-c", help="a configuration")
    config.complete = dict.fromkeys(_PREAMBLE, "_orpo_lightning_configs")  # type: ignore[attr-defined]  # of shtab
    parser.add_argument("--print_config", action="store_true", help="print the settings")
    parser.add_argument("--seed_everything", help="of everything that is random")
    for key, text, choices in [("ckpt_path", "a checkpoint, last or best", ()), *settings]:
        action = parser.add_argument(f"--{key}", help=text.replace("%", "%%"), choices=choices or None)
        if key in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # of shtab
