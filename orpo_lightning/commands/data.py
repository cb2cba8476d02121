"""The verb ``data``: what a run would train on, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.text import Text

from orpo_lightning.commands.parts import PartCLI
from orpo_lightning.data.datamodule import PreferenceDataModule
from orpo_lightning.data.mismatch import with_mismatched
from orpo_lightning.data.report import print_reports
from orpo_lightning.data.sources import open_source
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.objectives import Objective, get_objective
from orpo_lightning.records import Role, TokenizedRow
from orpo_lightning.summary.words import visible

_STYLES = {Role.CHOSEN: "green", Role.REJECTED: "red", Role.UNPAIRED: "cyan"}
_OUTSIDE = "dim"


class _DataCLI(PartCLI):
    parts = ("data",)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--show", type=int, default=2, help="how many rows to print as the model sees them")
        parser.add_argument("--dropped", type=str, default=None, help="list the rows that this reason dropped")


def main() -> None:
    """Print the account of the data of a configuration, and a few rows as the model sees them."""
    cli = _DataCLI.of_verb("data")
    if cli is None:
        return
    if cli.config["show"] < 0:
        raise ValueError(f"--show = {cli.config['show']} is out of range; accepted: 0 or more")
    data = cli.made["data"]
    if not isinstance(data, PreferenceDataModule):
        raise ValueError(f"the verb data reads preference data, and data is a {type(data).__name__}")
    data.setup("fit")
    console = Console(soft_wrap=True)
    print_reports(data.reports, console)
    objective = _objective_of(cli.config)
    for sentence in _advice(data, objective):
        console.print(Text(sentence, style="bold yellow"))
    if cli.config["dropped"] is not None:
        _list_dropped(console, data, cli.config["dropped"])
    else:
        _show(console, data, cli.config["show"], objective is not None and objective.needs_prompt_logps)


def _objective_of(config: Any) -> Objective | None:
    objective = config["model"].get("init_args", {}).get("objective")
    return get_objective(objective.class_path)(**objective.get("init_args", {})) if objective else None


def _advice(data: PreferenceDataModule, objective: Objective | None) -> Iterator[str]:
    yield from data.advice()
    if objective is not None and objective.needs_mismatched:
        for split, rows in data.rows.items():
            try:
                with_mismatched(rows, split)
            except ValueError as error:
                yield f"{error}: a fit refuses it"
    if objective is not None and objective.needs_pairs and data.unpaired_row is not None:
        name = type(objective).__name__
        yield f"{name} takes pairs, and {data.unpaired_row} is a single response: a fit refuses it; KTO takes both"


def _show(console: Console, data: PreferenceDataModule, count: int, prompt_in_loss: bool) -> None:
    tokenizer = load_tokenizer(data.tokenizer, data.tokenizer_revision)
    rows = data.rows["train"]
    for i in range(min(count, len(rows))):
        row = rows[i * len(rows) // min(count, len(rows))]
        console.print(Text.assemble("\ntrain, ", (row.row_id, "bold")))
        for label, ids, style in _parts(row, prompt_in_loss):
            console.print(Text(f"-- {label}, {len(ids)} tokens, {'not ' if style == _OUTSIDE else ''}in the loss"))
            console.print(Text(visible(str(tokenizer.decode(list(ids)))), style=style))


def _parts(row: TokenizedRow, prompt_in_loss: bool) -> Iterator[tuple[str, tuple[int, ...], str]]:
    yield "prompt", row.prompt, "yellow" if prompt_in_loss else _OUTSIDE
    for response in row.responses:
        label = "" if response.label is None else f" (label {bool(response.label)})"
        yield response.role.name.lower() + label, response.ids, _STYLES[response.role]


def _list_dropped(console: Console, data: PreferenceDataModule, reason: str) -> None:
    if all(reason not in report.dropped for report in data.reports.values()):
        known = dict.fromkeys(reason for report in data.reports.values() for reason in report.dropped)
        raise ValueError(f"--dropped {reason}: it dropped no row; reasons that did: {', '.join(known) or 'none'}")
    splits = [*(("train", source) for source in data.train), *(("validation", source) for source in data.val.values())]
    for name, (split, source) in zip(data.reports, splits, strict=True):
        details = {row_id: detail for row_id, why, detail in data.reports[name].dropped_rows if why == reason}
        for row_id, row in open_source(source, split).read() if details else ():
            if row_id in details:
                console.print(Text.assemble(f"{name}, ", (row_id, "bold"), f": {details[row_id]}"))
                console.print(Text(_short(row), style=_OUTSIDE))


def _short(row: Any, most: int = 400) -> str:
    text = visible(json.dumps(row, ensure_ascii=False, default=str))
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
