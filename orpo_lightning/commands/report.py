"""The verb ``report``: a page about runs that one can look at without a network, and figures for papers."""

from __future__ import annotations

import sys
from pathlib import Path

from orpo_lightning.commands.arguments import VerbParser


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
    parser.add_argument("--title", metavar="T", help="heading of the page")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    options = make_parser().parse_args(sys.argv[2:])
    if not options.out.parent.is_dir():
        raise ValueError(
            f"--out {options.out}: there is no folder {options.out.parent}; accepted: a file in one that is there"
        )
    if options.out.is_dir():
        raise ValueError(f"--out {options.out}: it is a folder; accepted: a file, such as report.html")
    if options.figures is not None and options.figures.is_file():
        raise ValueError(f"--figures {options.figures}: it is a file; accepted: a folder, made if it is not there")

    from orpo_lightning.comparison.runs import read_runs
    from orpo_lightning.report.contents import build_report
    from orpo_lightning.report.page import write_page
    from orpo_lightning.report.paper import write_figures

    report = build_report(read_runs(options.runs), options.set, options.title)
    write_page(report, options.out)
    print(f"{len(report.plots)} plots of {len(report.runs)} runs written to {options.out}")
    if options.figures is not None:
        written = write_figures(report, options.figures)
        print(f"{len(written)} figures written to {options.figures}")
