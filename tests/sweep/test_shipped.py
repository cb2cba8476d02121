"""The sweeps that come with the package, as they are read and begun here, without an account."""

from pathlib import Path

import pytest
import yaml
from pages import page_named

from orpo_lightning.command_line.config_files import find_sweep
from orpo_lightning.sweep.file import read_sweep
from orpo_lightning.sweep.record import Trial
from orpo_lightning.sweep.results import best_trial
from orpo_lightning.sweep.suggest import suggest
from orpo_lightning.sweep.words import check_options, words_of_fit, words_of_trial

FILES = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
TOLD = {cells[0].strip("`"): int(cells[2]) for cells in page_named("sweeps").rows("file | asks | trials")}


def understood(orpo_lightning, capsys, words):
    """What the parser of a fit makes of words."""
    with pytest.raises(SystemExit) as end:
        orpo_lightning(*words, "--print_config")
    out, err = capsys.readouterr()
    assert not end.value.code, err
    return yaml.safe_load(out)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_is_read_and_the_words_of_its_first_trial_are_understood(orpo_lightning, capsys, path):
    sweep = read_sweep(find_sweep(path.stem))
    assert sweep.name == path.stem
    assert (sweep.grid_size or sweep.run_cap) == TOLD[path.name]
    first = suggest(sweep, 0, 0, ())
    assert list(first.parameters) == list(sweep.parameters)
    folder, options = Path("runs") / "000", ["--data.limit=8"]
    check_options(sweep, options)
    settings = understood(orpo_lightning, capsys, words_of_trial(sweep, Trial(0, first.parameters), folder, options))
    assert (settings["trainer"]["default_root_dir"], settings["ckpt_path"]) == (str(folder), "last")
    assert settings["trainer"]["logger"] is False  # no account, whatever the file's layers log to
    assert settings["data"]["init_args"]["limit"] == 8


@pytest.mark.parametrize(
    "path", [path for path in FILES if not path.stem.endswith("_small")], ids=lambda path: path.stem
)
def test_no_two_trials_of_a_grid_are_the_same(path):
    sweep = read_sweep(path)
    if sweep.grid_size is None:
        assert sweep.method == "bayes"
    else:
        all_of_them = [suggest(sweep, 0, number, ()).parameters for number in range(sweep.grid_size)]
        assert len({repr(each) for each in all_of_them}) == sweep.grid_size


def test_the_command_that_repeats_the_best_trial_is_understood_and_trains_the_same(orpo_lightning, capsys):
    sweep = read_sweep(find_sweep("orpo_lambda_small"))
    trials = [Trial(i, {"model.objective.lambda_": x}, state="complete", value=x) for i, x in enumerate((0.3, 0.7))]
    options = ["--data.limit=8"]
    again = [*words_of_fit(sweep, best_trial(trials, sweep.metric), options), "--trainer.default_root_dir=runs/best"]
    theirs = understood(orpo_lightning, capsys, words_of_trial(sweep, trials[1], Path("runs/001"), options))
    ours = understood(orpo_lightning, capsys, again)
    assert ours["model"]["init_args"]["objective"]["init_args"]["lambda_"] == 0.7
    for part in ("model", "data", "seed_everything"):
        assert ours[part] == theirs[part]
