"""From a source to tokenized rows, with an account of every row that did not get there."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

from orpo_lightning.data.cache import Prepared, cached, content_key
from orpo_lightning.data.columns import Row, RowError, rename_columns
from orpo_lightning.data.filters import ALWAYS, Filter, prompt_key, row_key
from orpo_lightning.data.formats import find_format, format_named
from orpo_lightning.data.lengths import LENGTH_REASONS, LengthLimits
from orpo_lightning.data.report import SplitReport
from orpo_lightning.data.sources import Source, SourceConfig, columns_of, open_source
from orpo_lightning.data.token_table import TableBuilder
from orpo_lightning.data.tokenization import EMPTY_PROMPT, IDENTICAL_TOKENS, TEMPLATE_REASONS, tokenize_rows
from orpo_lightning.models.tokenizer import Tokenizer, end_of_turn, tokenizer_identity, unknown_token
from orpo_lightning.records import TextRow

MOST_UNREADABLE = 0.1
"""Largest share of rows that cannot be read (and more than `FEW_UNREADABLE` of them) before the source is refused."""
FEW_UNREADABLE = 10


@dataclass(frozen=True)
class Preparation:
    """How rows are read, filtered and tokenized.

    Args:
        tokenizer: the tokenizer, with its chat template.
        limits: the window, and what becomes of longer rows.
        filters: rules that drop rows, after those that always run.
        limit: read this many rows of a source at most; None reads all.
    """

    tokenizer: Tokenizer
    limits: LengthLimits = field(default_factory=LengthLimits)
    filters: Sequence[Filter] = ()
    limit: int | None = None

    def prepare(
        self, config: SourceConfig, split: str, name: str | None = None, validation_prompts: Collection[str] = ()
    ) -> Prepared:
        """The tokenized rows of a source, and the account of them; from the cache if they are there.

        Args:
            config: the source.
            split: ``train`` or ``validation``.
            name: how the report calls the split.
            validation_prompts: keys of the prompts of the validation data.

        Raises:
            ValueError: the source cannot be read, or too much of it, or no row of it is left; says what dropped them.
        """
        source = open_source(config, split)
        columns = columns_of(config, split)
        filters = [*(cls() for cls in ALWAYS), *self.filters]
        for rule in filters:
            try:
                rule.begin(validation_prompts)
            except Exception as error:
                raise _failed(rule, error, source.name) from error
        key = content_key(
            [
                source.name,
                source.digest,
                repr((config.format, sorted(columns.items()), self.limits, self.limit)),
                tokenizer_identity(self.tokenizer),
                "" if config.format is None else format_named(config.format).identity,
                *(rule.identity() for rule in filters),
            ]
        )
        with _without_garbage_collection():
            table, report = cached(key, lambda: _read(self, name or split, source, columns, filters, config.format))
        report.split = name or split  # the cache does not know for what the rows are used
        return table, report


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # rows are many objects and no cycles; to look through all of them again and again takes an eighth of the time
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(
    how: Preparation,
    split: str,
    source: Source,
    columns: Mapping[str, str],
    filters: Sequence[Filter],
    format_name: str | None,
) -> Prepared:
    report, builder = SplitReport(split, source.name), TableBuilder()
    rows = _renamed(source, columns, how.limit)
    seen: set[str] = set()
    for text, row in tokenize_rows(how.tokenizer, _filtered(_parsed(rows, format_name, report), filters, report)):
        try:
            if isinstance(row, RowError):
                raise row
            fitted = how.limits.fit(row)
        except RowError as error:
            report.drop(error)
            continue
        if fitted is not row:
            report.truncated["prompt" if len(fitted.prompt) < len(row.prompt) else "response"] += 1
        key = row_key(text)
        report.duplicates += key in seen
        seen.add(key)
        report.prefix_pairs += _is_prefix_pair(text)
        builder.add(fitted, prompt_key(text))
    table = builder.table()
    report.describe(table, end_of_turn(how.tokenizer), unknown_token(how.tokenizer))
    _refuse_unusable(report, [rule.name for rule in filters])
    return table, report


def _renamed(source: Source, columns: Mapping[str, str], limit: int | None) -> Iterator[tuple[str, Row]]:
    absent = set(columns.values())
    for row_id, row in islice(source.read(), limit):
        absent.difference_update(row)
        yield row_id, rename_columns(row, columns) if columns else row
    if absent:
        where = "" if limit is None else f" among the first {limit:,}"
        raise ValueError(f"{source.name}: data.columns names the column {min(absent)!r}, which no row has{where}")


def _parsed(rows: Iterator[tuple[str, Row]], format_name: str | None, report: SplitReport) -> Iterator[TextRow]:
    looked_at = []

    def look() -> Iterator[Row]:
        for row_id, row in rows:
            looked_at.append((row_id, row))
            yield row

    row_format = find_format(look(), report.source, format_name)
    report.format = row_format.name
    for row_id, row in chain(looked_at, rows):
        report.read += 1
        try:
            yield row_format.parse(row, row_id)
        except RowError as error:
            report.drop(error)


def _filtered(texts: Iterator[TextRow], filters: Sequence[Filter], report: SplitReport) -> Iterator[TextRow]:
    for text in texts:
        dropped_by = next((rule for rule in filters if _drops(rule, text)), None)
        if dropped_by is None:
            yield text
        else:
            report.drop(RowError(dropped_by.name, text.row_id, dropped_by.rule))


def _drops(rule: Filter, text: TextRow) -> bool:
    try:
        return bool(rule(text))
    except Exception as error:
        raise _failed(rule, error, text.row_id) from error


def _failed(rule: Filter, error: Exception, where: str) -> ValueError:
    """What to say of whatever the code of a user raises."""
    return ValueError(f"{where}: the filter {rule.name} failed: {type(error).__name__}: {error}")


def _is_prefix_pair(text: TextRow) -> bool:
    if text.chosen is None or text.rejected is None:
        return False
    return text.chosen.startswith(text.rejected) or text.rejected.startswith(text.chosen)


def _refuse_unusable(report: SplitReport, filter_names: Sequence[str]) -> None:
    later = [*filter_names, *TEMPLATE_REASONS, EMPTY_PROMPT, IDENTICAL_TOKENS, *LENGTH_REASONS]
    unreadable = [reason for reason in report.dropped if reason not in later]
    report.dropped = Counter(
        {reason: report.dropped[reason] for reason in [*unreadable, *later] if report.dropped[reason]}
    )
    unreadable += TEMPLATE_REASONS
    count = sum(report.dropped[reason] for reason in unreadable)
    if count > max(FEW_UNREADABLE, MOST_UNREADABLE * report.read):
        raise ValueError(
            f"{report.source}: {count:,} of {report.read:,} rows cannot be read in the format {report.format!r}, more "
            f"than {MOST_UNREADABLE:.0%}. Is it another format (data.format), are its columns called otherwise "
            f"(data.columns), or is its template not for such conversations? The first:\n{report.examples(unreadable)}"
        )
    if not report.kept:
        main = max(report.dropped, key=lambda reason: report.dropped[reason])
        hint = "; raise data.max_length, or set data.overlong" if main in LENGTH_REASONS else ""
        raise ValueError(f"no row is left: {report}{hint}. The first of {main}:\n{report.examples([main])}")
