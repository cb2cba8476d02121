"""``orpo-lightning sweep``: run a sweep file of Weights & Biases here, without an account."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_lightning.commands.arguments import VerbParser

if TYPE_CHECKING:
    from rich.console import Console

    from orpo_lightning.sweep.file import Sweep
    from orpo_lightning.sweep.folder import SweepFolder
    from orpo_lightning.sweep.record import Trial


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser(
        "sweep",
        "Run a sweep file of Weights & Biases here, without an account. Every other option is one of fit, and wins "
        "over those of the file.",
    )
    parser.add_argument("file", metavar="FILE", help="a sweep file, or the short name of one that is shipped")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="trials that run at once (default: 1)")
    parser.add_argument(
        "--count", type=int, metavar="N", help="trials in all (default: run_cap of the file, or the grid)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the sweep (default: runs/sweeps/NAME, numbered where one is)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="of the choice of parameters (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in that folder")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    parser = make_parser()
    asked, options = parser.parse_known_args(sys.argv[2:])

    from orpo_lightning.command_line.config_files import find_sweep
    from orpo_lightning.sweep.command import options_of
    from orpo_lightning.sweep.file import read_sweep
    from orpo_lightning.sweep.folder import (
        DEFAULT_SWEEPS,
        Start,
        folder_of,
        new_folder,
        only_folder,
        own_file,
        resumed_folder,
    )
    from orpo_lightning.sweep.record import Trial
    from orpo_lightning.sweep.suggest import suggest
    from orpo_lightning.sweep.words import check_options, check_words, words_of_trial

    for name, value, least in (("workers", asked.workers, 1), ("count", asked.count, 1), ("seed", asked.seed, 0)):
        if value is not None and value < least:
            raise ValueError(f"--{name} = {value} is out of range; accepted: {least} or more")
    for option, _ in options_of(options):
        meant = parser.nearest(option)
        if meant is not None:
            raise ValueError(f"{option} is an option neither of sweep nor of fit; did you mean {meant}?")
    file = own_file(asked.file) if asked.resume else None
    file = file or find_sweep(asked.file)
    sweep = read_sweep(file)
    own = folder_of(file)
    if own is not None:  # the copy there has another name than its file
        sweep = replace(sweep, name=own.name)
    check_options(sweep, options)
    _check_optuna(sweep)
    size = _size(sweep, asked.count)
    out = (asked.out or DEFAULT_SWEEPS / sweep.name).expanduser()
    if asked.resume:
        if asked.out is None:
            out = own or only_folder(out, ["orpo-lightning", "sweep", asked.file, "--resume", *options])
        folder = resumed_folder(out, file, sweep, options, asked.seed)
    else:
        start = Start(asked.seed or 0, tuple(options))
        first = suggest(sweep, start.seed, 0, ())
        check_words(words_of_trial(sweep, Trial(0, first.parameters), out, options), file)
        folder = new_folder(out, file, start)
    numbers = {"--workers": asked.workers if asked.workers > 1 else None, "--count": asked.count}
    given = [word for name, value in numbers.items() if value is not None for word in (name, str(value))]
    again = ["sweep", asked.file, "--resume", "--out", str(folder.path), *given, *options]
    with folder.lock:
        _run(sweep, folder, size, asked.workers, again)


def _check_optuna(sweep: Sweep) -> None:
    if sweep.method != "grid" and importlib.util.find_spec("optuna") is None:
        raise ValueError(f"method = {sweep.method} needs optuna: pip install 'orpo-lightning[sweep]'; without it: grid")


def _size(sweep: Sweep, count: int | None) -> int:
    sizes = [size for size in (sweep.grid_size, count or sweep.run_cap) if size is not None]
    if not sizes:
        raise ValueError(
            f"nothing says how many trials {sweep.name} has: add --count N, or run_cap: N to the file, as method = "
            f"{sweep.method} has no end of its own"
        )
    return min(sizes)


def _run(sweep: Sweep, folder: SweepFolder, size: int, workers: int, again: Sequence[str]) -> None:
    from rich.console import Console

    from orpo_lightning.signals import AGAIN, StopSignals, exit_code, name_of, say
    from orpo_lightning.sweep.runner import Runner
    from orpo_lightning.sweep.table import View

    console = Console()
    signals = StopSignals("the trials save after this step and stop")
    runner = Runner(sweep, folder, size, workers, signals)
    signals.listen()
    try:
        with View(sweep, console, size) as view:
            runner.run(view)
    finally:
        signals.stop_listening()
    _report(console, sweep, folder, runner.trials)
    go_on = f"to go on: {shlex.join(['orpo-lightning', *again])}"
    if signals.received:
        say(f"stopped by {name_of(signals.received)}; {go_on}")
        raise SystemExit(exit_code(signals.received))
    if runner.stopped is not None:
        say(f"trial {runner.stopped.name} was asked to stop, by others than the sweep, which ends with it; {go_on}")
        raise SystemExit(AGAIN)
    if runner.refused is not None:
        raise ValueError(
            f"trials were refused alike before they began, as all others would be: {runner.refused.reason}; set it "
            f"right, and {go_on}"
        )
    if all(trial.state == "failed" for trial in runner.trials):
        raise ValueError(f"all trials of {folder.path} failed; the first: {runner.trials[0].reason}")


def _lost_rows(folder: SweepFolder, trials: Sequence[Trial]) -> list[str]:
    """What became of the rows of data that lost some, a line for each that is different."""
    from orpo_lightning.data.report import read_reports
    from orpo_lightning.run_folder import DATA_REPORT_FILE

    reports = [read_reports(folder.trials / trial.name / DATA_REPORT_FILE) for trial in trials]
    lost = [split for each in reports for split in each.values() if split.dropped or split.truncated]
    return list(dict.fromkeys(f"data: {split}" for split in lost))


def _report(console: Console, sweep: Sweep, folder: SweepFolder, trials: Sequence[Trial]) -> None:
    from rich.text import Text

    from orpo_lightning.sweep.results import RESULTS_FILE, best_trial, equals_of
    from orpo_lightning.sweep.table import Row, repeats_table, trials_table
    from orpo_lightning.sweep.words import words_of_fit

    rows = [Row(trial) for trial in trials]
    console.print()
    console.print(trials_table(sweep, rows, rows, f"{sweep.name}: {len(rows)} trials in {folder.path}"))
    repeats = repeats_table(sweep, trials)
    if repeats is not None:
        console.print()
        console.print(repeats)
    lines = ["", *_lost_rows(folder, trials), f"table: {folder.path / RESULTS_FILE}"]
    best = best_trial(trials, sweep.metric)
    if best is not None:
        words = words_of_fit(sweep, best, folder.start.options)
        name = f"{folder.path.name}-best"
        repeat = shlex.join(["orpo-lightning", *words, f"--trainer.default_root_dir=runs/{name}"])
        equal = len(equals_of(best, trials)) - 1
        tie = f" (of {equal + 1} with this value)" if equal else ""
        lines += [f"best: trial {best.name}, {folder.trials / best.name}{tie}", f"to repeat it: {repeat}"]
    for verb, what in (("compare", "compare the trials"), ("report", "a page of their curves")):
        lines.append(f"{what}: {shlex.join(['orpo-lightning', verb, str(folder.path)])}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
