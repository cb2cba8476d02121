"""The verb ``compare``: runs side by side, by measures that hold for every objective."""

from __future__ import annotations

import sys
from pathlib import Path

from orpo_lightning.commands.arguments import VerbParser
from orpo_lightning.commands.outputs import check_file


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser(
        "compare",
        "Compare runs: what they cost, how well they tell chosen from rejected on the same validation pairs, whether "
        "that differs by more than chance, and in which settings they differ.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="the folder of a run, a folder of runs (of a sweep), or a pattern"
    )
    parser.add_argument("--set", metavar="NAME", help="the validation set, where there are several (the first)")
    parser.add_argument(
        "--baseline", metavar="RUN", help="name or folder of the run that the others are tested against (the first)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row of each run there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    options = make_parser().parse_args(sys.argv[2:])
    check_file("--csv", options.csv)
    check_file("--json", options.json)

    from rich import get_console

    from orpo_lightning.comparison.comparison import Comparison
    from orpo_lightning.comparison.files import write_csv, write_json
    from orpo_lightning.comparison.runs import read_runs
    from orpo_lightning.comparison.terminal import print_comparison

    left_out: list[str] = []
    runs = read_runs(options.runs, left_out.append)
    comparison = Comparison.of_runs(runs, options.set, options.baseline, left_out)
    if options.csv is not None:
        write_csv(comparison, options.csv)
    if options.json is not None:
        write_json(comparison, options.json)
    print_comparison(comparison, get_console())
