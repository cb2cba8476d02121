"""The summary of a run as a Markdown page beside its picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orpo_lightning.run_folder import CURVES_FILE
from orpo_lightning.summary.gains import SetGains
from orpo_lightning.summary.intervals import Interval
from orpo_lightning.summary.run import RunSummary
from orpo_lightning.summary.sentences import EXPLANATION, format_value, interval_note, labelled, speed_sentences
from orpo_lightning.summary.words import command_lines, short_path, visible
from orpo_lightning.whole_file import whole_file


def write_markdown(summary: RunSummary, path: Path) -> None:
    """Write a summary to a file, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(to_markdown(summary), encoding="utf-8", errors="backslashreplace")


def to_markdown(summary: RunSummary) -> str:
    """The summary as Markdown."""
    return "\n\n".join(_blocks(summary)) + "\n"


def _blocks(summary: RunSummary) -> Iterator[str]:
    yield f"# {summary.title}"
    yield f"{_capital(summary.ending)}."
    if summary.outcome.warnings:
        yield "## Warnings"
        yield "\n".join(f"- {_capital(visible(warning))}" for warning in summary.outcome.warnings)
    for each in summary.sets:
        yield from _set(each)
    if summary.notes:
        yield "\n".join(f"- {note}" for note in summary.notes)
    if CURVES_FILE in summary.files:
        yield "## Curves"
        yield f"![Log-probabilities, margins, accuracy, odds and loss over the optimizer steps]({CURVES_FILE})"
    if summary.answers:
        yield "## Answers to validation prompts"
        yield "Likeliest token by token."
        for first, last in summary.answers:
            yield f"**Prompt** (`{first.row_id}`)"
            yield _quoted(first.prompt)
            for label, answer in labelled(first, last):
                cut_off = "" if answer.finished else ", cut off at the longest length"
                yield f"**{_capital(label)}**, step {answer.step:,}{cut_off}"
                yield _quoted(answer.answer.strip() or "(blank)")
    if summary.outcome.reports:
        yield "## Data"
        yield "\n".join(f"- {visible(report)}" for report in summary.outcome.reports)
    yield "## Speed"
    yield "\n".join(f"- {sentence}" for sentence in speed_sentences(summary.outcome.speed))
    if summary.settings:
        yield "## Settings"
        rows = [f"| {key} | {_cell(value)} |" for key, value in summary.settings.items()]
        yield "\n".join(["| setting | value |", "|---|---|", *rows])
    yield "## Files"
    yield "\n".join(f"- `{name}`: {what}" for name, what in summary.files.items())
    if summary.next_steps:
        yield "## Try next"
        yield "From the folder where this run was started:"
        commands = ("\n".join([f"# {step.what}", *command_lines(step.words)]) for step in summary.next_steps)
        yield "```sh\n" + "\n\n".join(commands) + "\n```"
        yield f"Run folder: `{short_path(summary.folder)}`"


def _set(each: SetGains) -> Iterator[str]:
    name = f" {each.set}" if each.set else ""
    pairs = f", {each.pairs:,} pairs" if each.pairs else ""
    yield f"## Validation{name}{pairs}"
    rows = ["| measure | before | after | gain |", "|---|---|---|---|"]
    for gain in each.gains:
        cells = [_value(gain.before, gain.unit), _value(gain.after, gain.unit), _value(gain.change, gain.unit, "+")]
        rows.append(f"| {gain.name}, {gain.unit} | {' | '.join(cells)} |")
    yield "\n".join(rows)
    verdicts = [gain.verdict for gain in each.gains if gain.verdict]
    if verdicts:
        yield "\n".join(f"- {verdict}" for verdict in verdicts)
        yield f"In brackets: {interval_note(each.pairs)}"
    if any(gain.name == "accuracy" for gain in each.gains):
        yield _capital(EXPLANATION)


def _value(value: Interval | float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return "-"
    middle, *interval = format_value(value, unit, sign)
    return f"**{middle}** ({interval[0]})" if interval else f"**{middle}**"


def _quoted(text: str) -> str:
    # a fence longer than any in the text, so that nothing in it is taken as markup
    fence = "~" * max(3, *(len(run) + 1 for run in _runs(text)), 3)
    return f"{fence}text\n{visible(text)}\n{fence}"


def _runs(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and set(line.strip()) == {"~"}] or [""]


def _cell(value: object) -> str:
    return "`" + str(value).replace("|", "\\|").replace("\n", " ") + "`"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
