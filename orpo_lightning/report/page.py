"""A report as one file of HTML that asks nothing of a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from orpo_lightning.comparison.columns import Cell
from orpo_lightning.comparison.runs import Run
from orpo_lightning.report.contents import Report, Section
from orpo_lightning.report.interactive import figure_of
from orpo_lightning.report.palette import styles_of
from orpo_lightning.report.plots import Plot
from orpo_lightning.report.tables import (
    Column,
    Table,
    TableRow,
    answers_of,
    data_table,
    quality_table,
    repeats_table,
    settings_table,
    tests_table,
    work_table,
)
from orpo_lightning.run_folder import CONFIG_FILE, config_of
from orpo_lightning.summary.words import command_lines, short_path, visible
from orpo_lightning.whole_file import whole_file

_MARKS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚"}


@dataclass(frozen=True)
class _Library:
    """Plotly's JavaScript: packed as text, and the hash by which a page may run it."""

    packed: str
    sha256: str


def write_page(report: Report, path: Path) -> None:
    """Write a report to a file, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(to_html(report), encoding="utf-8", errors="backslashreplace")


def to_html(report: Report) -> str:
    """The page. Every text of a run is escaped, and no script runs but its own two."""
    names = [run.name for run in report.runs]
    numbers = {name: i for i, name in enumerate(names)}
    labels = {run.name: f"{run.name}: {run.label}" for run in report.runs}
    figures = [figure_of(plot, names, labels) for plot in report.plots]
    script, library = _resource("page.js"), _library()
    parts = [*_parts(report, numbers)]
    return Template(_resource("page.html")).substitute(
        title=escape(report.title),
        hashes=f"'sha256-{_sha256(script)}' 'sha256-{library.sha256}'",
        css=_resource("page.css"),
        subtitle=escape(_subtitle(report)),
        navigation="\n".join(f'<a href="#{part.key}">{escape(part.title)}</a>' for part in parts),
        runs="\n".join(_run_box(run, number, names) for number, run in enumerate(report.runs)),
        with_plots="" if figures else "hidden",
        main="\n".join(part.html for part in parts),
        about="Made by orpo-lightning, with plotly.js.",
        # < would end the script
        figures=json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        library=library.packed if figures else "",
        script=script,
    )


@dataclass(frozen=True)
class _Part:
    key: str
    title: str
    html: str


def _parts(report: Report, numbers: Mapping[str, int]) -> Iterator[_Part]:
    yield _table(quality_table(report), numbers, _notes(report))
    yield _table(work_table(report), numbers)
    settings, data = settings_table(report), data_table(report)
    for table in (repeats_table(report), tests_table(report)):
        if table is not None:
            yield _table(table, numbers)
    for section in report.sections:
        yield _plots(section)
    if settings is not None:
        yield _table(settings, numbers)
    answers = "\n".join(_answers(report.runs, numbers))
    if answers:
        text = "What the runs answer to the same validation prompts, likeliest token by token."
        yield _part("answers", "Answers", text, answers)
    if data is not None:
        yield _table(data, numbers)
    text = "The command repeats a run, in a new folder beside it."
    yield _part("reproduce", "To repeat a run", text, "\n".join(_how_to_repeat(report.runs, numbers)))


def _part(key: str, title: str, text: str, content: str) -> _Part:
    heading = f'<h2 id="{key}">{escape(title)}</h2>\n<p>{escape(text)}</p>'
    return _Part(key, title, f"<section>\n{heading}\n{content}\n</section>")


def _subtitle(report: Report) -> str:
    rows = report.comparison.rows
    of_set = f"validation set {report.comparison.of_set}" if report.comparison.of_set else "one validation set"
    pairs = sorted({row.validation_pairs for row in rows})
    counted = " to ".join(f"{each:,}" for each in dict.fromkeys((pairs[0], pairs[-1])))
    models = ", ".join(dict.fromkeys(row.model for row in rows if row.model))
    runs = "1 run" if len(rows) == 1 else f"{len(rows):,} runs"
    validated = (of_set, f"{counted} validation pairs") if pairs[-1] else ("no validation pairs",)
    return " · ".join(filter(None, (runs, models, *validated)))


def _notes(report: Report) -> str:
    notes = "\n".join(f"<li>{escape(note)}</li>" for note in report.comparison.notes)
    return f"<ul>\n{notes}\n</ul>" if notes else ""


def _run_box(run: Run, number: int, names: Sequence[str]) -> str:
    return (
        f'<label class="run"><input type="checkbox" checked data-run="{number}" autocomplete="off">'
        f'{_mark(run.name, names)}<span class="name">{escape(run.name)}</span>'
        f'<span class="what">{escape(run.label)}</span></label>'
    )


def _mark(name: str, names: Sequence[str]) -> str:
    style = styles_of(names)[name]
    return f'<span class="mark" style="color: {style.color}" aria-hidden="true">{_MARKS[style.symbol]}</span>'


def _plots(section: Section) -> _Part:
    plots = "\n".join(
        f'<figure id="plot-{plot.key}">\n<h3>{escape(plot.title)}</h3>\n<div class="canvas" role="img" '
        f'aria-label="{escape(plot.title)}"></div>\n<figcaption><p>{escape(_reading(plot))}</p></figcaption>\n</figure>'
        for plot in section.plots
    )
    return _part(section.key, section.title, section.text, f'<div class="plots">\n{plots}\n</div>')


def _table(table: Table, numbers: Mapping[str, int], notes: str = "") -> _Part:
    header = "".join(
        f'<th scope="col"{_class(column)}><button type="button">{_heading(column)}</button></th>'
        for column in table.columns
    )
    rows = "\n".join(_table_row(row, table.columns, numbers) for row in table.rows)
    content = (
        f'{notes}<div class="scroll" tabindex="0"><table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )
    return _part(table.key, table.title, table.text, content)


def _table_row(row: TableRow, columns: Sequence[Column], numbers: Mapping[str, int]) -> str:
    first, *others = row.cells
    mark = _mark(row.runs[0], list(numbers)) if len(row.runs) == 1 and first.text == row.runs[0] else ""
    cells = "".join(_cell(cell, column) for cell, column in zip(others, columns[1:], strict=True))
    return f'<tr{_of_runs(row.runs, numbers)}><th scope="row">{mark} {_content(first)}</th>{cells}</tr>'


def _cell(cell: Cell, column: Column) -> str:
    known = cell.value is not None and math.isfinite(cell.value)
    value = f' data-value="{cell.value if known else ""}"' if column.is_number else ""
    return f"<td{_class(column)}{value}>{_content(cell)}</td>"


def _content(cell: Cell) -> str:
    aside = f' <span class="small">{escape(visible(cell.aside))}</span>' if cell.aside else ""
    return f"{escape(visible(cell.text))}{aside}"


def _class(column: Column) -> str:
    return ' class="number"' if column.is_number else ""


def _heading(column: Column) -> str:
    unit = f' <span class="small">{escape(column.unit)}</span>' if column.unit else ""
    return escape(column.title).replace(".", ".<wbr>") + unit


def _of_runs(runs: Sequence[str], numbers: Mapping[str, int]) -> str:
    return f' data-runs="{" ".join(str(numbers[name]) for name in runs)}"'


def _reading(plot: Plot) -> str:
    return " ".join(filter(None, (plot.reading, plot.on_hovering)))


def _answers(runs: Sequence[Run], numbers: Mapping[str, int]) -> Iterator[str]:
    for each in answers_of(runs):
        yield f'<p class="prompt">{escape(visible(each.prompt))}</p>\n<div class="given">'
        for answer in each.answers:
            who = ", ".join(answer.runs) if len(answer.runs) < len(runs) or len(runs) == 1 else "all runs"
            mark = _mark(answer.runs[0], list(numbers)) if len(answer.runs) == 1 else ""
            yield (
                f'<div class="answer"{_of_runs(answer.runs, numbers)}>\n'
                f"<h4>{mark} {escape(who)}, {escape(answer.about)}</h4>\n"
                f"<p>{escape(visible(answer.text.strip())) or '(blank)'}</p>\n</div>"
            )
        yield "</div>"


def _how_to_repeat(runs: Sequence[Run], numbers: Mapping[str, int]) -> Iterator[str]:
    for run in runs:
        config = config_of(run.folder)
        record = run.record
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        about = " · ".join(filter(None, (record.device, versions)))
        yield f'<details class="config"{_of_runs((run.name,), numbers)}>\n<summary>{escape(run.name)}</summary>'
        yield f"<p>{escape(about)}</p>"
        if config:
            words = ["orpo-lightning", "fit", "--config", short_path(run.folder / CONFIG_FILE)]
            yield f"<pre>{escape(chr(10).join(command_lines(words)))}</pre>\n<pre>{escape(visible(config))}</pre>"
        yield "</details>"


@cache
def _resource(name: str) -> str:
    return files("orpo_lightning.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> _Library:
    from plotly.offline import get_plotlyjs

    code = get_plotlyjs()
    # packed it is two fifths of its size, and a browser unpacks it in a moment
    packed = base64.b64encode(gzip.compress(code.encode(), mtime=0)).decode()
    return _Library(packed, _sha256(code))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
