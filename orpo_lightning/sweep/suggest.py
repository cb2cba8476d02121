"""The parameters of the next trial: by grid, at random, or by what the trials before it have shown.

What a trial gets is a function of the seed, its number and what is known of the others. No state of a sampler is kept,
so a sweep that goes on draws what it would have drawn, and never the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orpo_lightning.sweep.distributions import Drawn
from orpo_lightning.sweep.file import Sweep
from orpo_lightning.sweep.record import Trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

RANDOM_TRIALS = 5
"""Trials of ``bayes`` that are drawn at random before there is anything to learn from."""


@dataclass(frozen=True)
class Suggestion:
    """What a trial is to be run with.

    Args:
        parameters: values by name.
        drawn: what Optuna drew for them; empty in a grid.
    """

    parameters: Mapping[str, Any]
    drawn: Mapping[str, Drawn]


def suggest(sweep: Sweep, seed: int, number: int, trials: Sequence[Trial]) -> Suggestion:
    """What the next trial is to be run with.

    Args:
        sweep: the sweep.
        seed: of everything random.
        number: of the trial.
        trials: those before it.

    Raises:
        ValueError: optuna is not installed, and the method needs it.
    """
    return _METHODS[sweep.method](sweep, seed, number, trials)


def _grid(sweep: Sweep, seed: int, number: int, trials: Sequence[Trial]) -> Suggestion:
    point = {}
    for name in reversed(list(sweep.parameters)):  # the last one fastest
        each = sweep.parameters[name]
        assert each.count is not None, "the file was refused where it is"
        number, place = divmod(number, each.count)
        point[name] = each.point(place)
    return Suggestion({name: point[name] for name in sweep.parameters}, {})


def _random(sweep: Sweep, seed: int, number: int, trials: Sequence[Trial]) -> Suggestion:
    from optuna.samplers import RandomSampler

    return _drawn(sweep, RandomSampler(seed=_seed(seed, number)), ())


def _bayes(sweep: Sweep, seed: int, number: int, trials: Sequence[Trial]) -> Suggestion:
    """A Gaussian process, as in Weights & Biases.

    Trials that failed count as the worst that is known, which keeps the next ones away from there; one that was pruned
    counts by the value that it had reached. Those that run are told to the sampler, so that it looks elsewhere.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells of a package that would make it faster
    sampler = optuna.samplers.GPSampler(
        seed=_seed(seed, number), n_startup_trials=RANDOM_TRIALS, warn_independent_sampling=False
    )
    return _drawn(sweep, sampler, list(_known(sweep, trials)))


_METHODS: Mapping[str, Callable[[Sweep, int, int, Sequence[Trial]], Suggestion]] = {
    "grid": _grid,
    "random": _random,
    "bayes": _bayes,
}


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _drawn(sweep: Sweep, sampler: BaseSampler, known: Sequence[FrozenTrial]) -> Suggestion:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it says that it has made a study
    study = optuna.create_study(sampler=sampler)
    study.add_trials(known)
    drawn = study.ask({name: each.in_optuna() for name, each in sweep.parameters.items()}).params
    return Suggestion({name: each.value(drawn[name]) for name, each in sweep.parameters.items()}, drawn)


def _known(sweep: Sweep, trials: Sequence[Trial]) -> Iterator[FrozenTrial]:
    from optuna.trial import TrialState, create_trial

    assert sweep.metric is not None
    losses = {
        trial.number: sweep.metric.sign * trial.value
        for trial in trials
        if trial.state in ("complete", "pruned") and trial.value is not None
    }
    space = {name: each.in_optuna() for name, each in sweep.parameters.items()}
    for trial in trials:
        runs = trial.goes_on
        if runs or losses:
            yield create_trial(
                state=TrialState.RUNNING if runs else TrialState.COMPLETE,
                params=dict(trial.drawn),
                distributions=space,
                value=None if runs else losses.get(trial.number, max(losses.values())),
            )
