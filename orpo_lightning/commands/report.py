"""The verb ``report``: a page about runs that one can look at without a network, and figures for papers."""

from __future__ import annotations

import sys
from pathlib import Path

from orpo_lightning.commands.arguments import VerbParser
from orpo_lightning.commands.outputs import check_file, check_folder


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser(
        "report",
        "Write a page about runs: curves, accuracy by length, strength against quality, quality beside cost, tables, "
        "answers and configurations. One file, which asks nothing of a network.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="the folder of a run, a folder of runs (of a sweep), or a pattern"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page, overwritten (%(default)s)"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the plots there too, as PDF and PNG")
    parser.add_argument("--set", metavar="NAME", help="the validation set, where there are several (the first)")
    parser.add_argument(
        "--baseline", metavar="RUN", help="name or folder of the run that the others are tested against (the first)"
    )
    parser.add_argument("--title", metavar="T", help="heading of the page")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    options = make_parser().parse_args(sys.argv[2:])
    check_file("--out", options.out)
    check_folder("--figures", options.figures)

    from orpo_lightning.comparison.runs import read_runs
    from orpo_lightning.report.contents import build_report
    from orpo_lightning.report.page import write_page
    from orpo_lightning.report.paper import write_figures

    left_out: list[str] = []
    runs = read_runs(options.runs, left_out.append)
    report = build_report(runs, options.set, options.title, options.baseline, left_out)
    write_page(report, options.out)
    print(f"{len(report.plots)} plots of {len(report.runs)} runs written to {options.out}")
    if options.figures is not None:
        written = write_figures(report, options.figures)
        print(f"{len(written)} figures written to {options.figures}")
