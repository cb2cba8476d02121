"""The verb ``replay``: a step that has ended a run is taken again, and shows what of it is not finite."""

from __future__ import annotations

import itertools
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_lightning.command_line.config_files import as_typed
from orpo_lightning.commands.arguments import VerbParser
from orpo_lightning.run_folder import FAILED_STEPS
from orpo_lightning.secrets import left_out

if TYPE_CHECKING:
    from rich.table import Table

    from orpo_lightning.modules.failed_step import FailedStep
    from orpo_lightning.modules.preference import PreferenceModule
    from orpo_lightning.modules.replay import Replay, ReplayedRow

NOT_REPRODUCED = 3
"""Exit code where the step does not fail as it did; that of an error is 1, that of wrong options 2."""
_ACCEPTED = f"accepted: {FAILED_STEPS.replace('*', 'N')}, which a fit leaves in its folder, or that folder"
_NAMED = 4
"""How many parameters are named."""


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser(
        "replay",
        "Take a step again whose loss or gradient was not finite: from the weights before it, on its micro-batches, in "
        "the precision of the run, in one process. Ends with 0 where it fails as it did, and with 3 where it does not. "
        "Settings of the model, --model.KEY VALUE, take the place of those of the run, such as its secrets, which are "
        "not kept.",
    )
    parser.add_argument(
        "step",
        type=Path,
        metavar="FILE|RUN",
        help="failed-step-N.pt in the folder of a run, or that folder: its newest",
    )
    parser.add_argument(
        "--rows", type=int, default=20, metavar="N", help="rows to list, first those that are not finite (%(default)s)"
    )
    parser.add_argument(
        "--accelerator", default="auto", metavar="A", help="where to compute, as trainer.accelerator (%(default)s)"
    )
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    parser = make_parser()
    own, settings = _settings_apart(sys.argv[2:])
    options = parser.parse_args(own)
    if options.rows < 0:
        parser.error(f"--rows {options.rows} is out of range; accepted: 0 or more")
    path = _find(options.step)

    from rich import get_console

    from orpo_lightning.modules.replay import replay

    saved = _read(path)
    failed = _step_in(saved, path)
    found = replay(_make_module(failed.config, settings, path), failed, saved, options.accelerator)
    console = get_console()
    console.print(_table(found, options.rows))
    for sentence in _sentences(failed, found, options.rows):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if not _fails_again(failed, found):
        sys.exit(NOT_REPRODUCED)


def _settings_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of this verb, and the settings of the model among them with their values."""
    own: list[str] = []
    settings: list[str] = []
    left = iter(words)
    for word in left:
        if word.startswith("--model."):
            settings += [word] if "=" in word else [word, *itertools.islice(left, 1)]
        else:
            own.append(word)
    return own, settings


def _find(place: Path) -> Path:
    """The file that a user means, or the folder of one that several processes have written."""
    place = place.expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{place}: there is no such file or folder; {_ACCEPTED}")
    if place.is_dir() and not place.match(FAILED_STEPS):
        kept = max(place.glob(FAILED_STEPS), key=lambda path: path.stat().st_mtime_ns, default=None)
        if kept is None:
            raise FileNotFoundError(f"{place}: no step is kept there; {_ACCEPTED}")
        return kept
    return place


def _read(path: Path) -> dict[str, Any]:
    from orpo_lightning.checkpoint_io import SafeCheckpointIO

    try:
        return SafeCheckpointIO().load_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_ACCEPTED}") from error
    except OSError as error:  # so torch says of some archives that are cut off
        raise ValueError(f"{path} cannot be read ({error.strerror}); is it whole? {_ACCEPTED}") from error


def _step_in(saved: dict[str, Any], path: Path) -> FailedStep:
    from orpo_lightning.modules.failed_step import FailedStep

    if FailedStep.KEY not in saved:
        raise ValueError(f"{path} is a checkpoint, and of no step that failed; {_ACCEPTED}")
    try:
        return FailedStep.from_plain(saved[FailedStep.KEY])
    except Exception as error:  # whatever another version of this package has written there
        raise ValueError(
            f"the step in {path} cannot be read ({error!r}); is it of this version of the package?"
        ) from error


def _make_module(config: str, settings: Sequence[str], kept: Path) -> PreferenceModule:
    """The module of a run, with settings that were typed in the place of its own."""
    import yaml

    from orpo_lightning.cli import make_cli
    from orpo_lightning.commands.parts import PartCLI
    from orpo_lightning.modules.preference import PreferenceModule

    class ModuleCLI(PartCLI):
        parts = ("model",)

    # its callbacks, loggers and data are not needed, and need not be where they were
    own = {key: value for key, value in yaml.safe_load(config).items() if key in ("seed_everything", "model")}
    own = _without_those_set(own, settings)
    missing = list(dict.fromkeys(as_typed(key) for key in left_out(own)))
    if missing:
        options = " ".join(f"--{key} '${{oc.env:NAME}}'" for key in missing)
        raise ValueError(
            f"{kept} holds no secrets, and the run had {', '.join(missing)}; set each, best to a variable of the "
            f"environment: orpo-lightning replay {shlex.quote(str(kept))} {options}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(own, sort_keys=False), encoding="utf-8")
        sys.argv = [f"{sys.argv[0]} replay", "--config", str(path), *settings]
        cli = make_cli(ModuleCLI, run=False, save_config_callback=None)
    assert isinstance(cli, PartCLI)
    module = cli.made["model"]
    assert isinstance(module, PreferenceModule), "no other module keeps a step"
    return module


def _without_those_set(config: Any, settings: Sequence[str], key: str = "") -> Any:
    """A configuration without what stands for the secrets that are typed: no number, for one, could be that."""
    if not isinstance(config, dict):
        return config
    typed = {as_typed(word[2:].partition("=")[0]) for word in settings if word.startswith("--")}
    keys = {name: f"{key}.{name}".lstrip(".") for name in config}
    return {
        name: _without_those_set(value, settings, keys[name])
        for name, value in config.items()
        if isinstance(value, dict) or as_typed(keys[name]) not in typed or not any(left_out(value, keys[name]))
    }


def _fails_again(failed: FailedStep, found: Replay) -> bool:
    return found.error is not None and found.error.what == failed.what


def _sentences(failed: FailedStep, found: Replay, shown: int) -> Iterator[str]:
    left = _in_order(found)[shown:]
    if left:
        yield f"and {len(left):,} more: --rows {len(found.rows)} lists them"
    yield f"the loss: {found.loss:.6g}; the gradient norm: {found.gradient_norm:.6g}"
    if found.bad_weights:
        yield f"weights that were not finite before the step: {_named(found.bad_weights)}"
    if found.bad_gradients:
        yield f"gradients that are not finite, of {len(found.gradients):,}: {_named(found.bad_gradients)}"
    if found.rows_of_bad_gradients:
        yield f"rows whose own gradient is not finite: {', '.join(found.rows_of_bad_gradients)}"
    was, now = f"{failed.what} of optimizer step {failed.step} was {failed.value}", found.values[failed.what]
    if _fails_again(failed, found):
        yield f"It fails as it did: {was}, and is {now} here."
    else:
        other = "" if found.error is None else f", and {found.error.what} is {found.error.value}"
        where = (
            "" if failed.device == found.device else f"; this is on {found.device}, and the run was on {failed.device}"
        )
        yield f"It does not fail as it did: {was}, and is {now:.6g} here{other}{where}."


def _named(names: tuple[str, ...]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return f"{len(names):,}, {', '.join(names[:_NAMED])}{more}"


def _table(found: Replay, shown: int) -> Table:
    from rich.table import Table

    rows = _in_order(found)[:shown]
    table = Table(box=None, pad_edge=False)
    table.add_column("row", overflow="fold")
    for name in ("loss", *(rows[0].seen if rows else ()), "finite"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (f"{value:.6g}" for value in (row.loss, *row.seen.values()))
        is_good = _is_good(row, found)
        table.add_row(row.row_id, *cells, "yes" if is_good else "no", style=None if is_good else "red")
    return table


def _in_order(found: Replay) -> list[ReplayedRow]:
    """The rows, those first that are to blame."""
    return sorted(found.rows, key=lambda row: _is_good(row, found))


def _is_good(row: ReplayedRow, found: Replay) -> bool:
    return row.is_finite and row.row_id not in found.rows_of_bad_gradients
