"""Which of Optuna's samplers finds the best parameters in the few trials of a sweep, on functions that are known.

    python benchmarks/sweep_samplers.py

Each is made anew for every trial, as in a sweep: seeded by the sweep's seed and the number of the trial. The functions
are humps of an accuracy over lambda, and over lambda and the learning rate, whose values are measured with noise of a
standard deviation of 0.01.

That command printed, on 2026-11-29 with optuna 5.0.0 and one thread, on a machine shared with other work:

    lambda         16 trials, 1 at once: RandomSampler  0.0040 below the top
    lambda         16 trials, 1 at once: TPESampler     0.0014 below the top
    lambda         16 trials, 1 at once: GPSampler      0.0002 below the top
    lambda         16 trials, 2 at once: RandomSampler  0.0040 below the top
    lambda         16 trials, 2 at once: TPESampler     0.0014 below the top
    lambda         16 trials, 2 at once: GPSampler      0.0000 below the top
    lambda and lr  24 trials, 1 at once: RandomSampler  0.0431 below the top
    lambda and lr  24 trials, 1 at once: TPESampler     0.0159 below the top
    lambda and lr  24 trials, 1 at once: GPSampler      0.0050 below the top
    lambda and lr  24 trials, 2 at once: RandomSampler  0.0431 below the top
    lambda and lr  24 trials, 2 at once: TPESampler     0.0121 below the top
    lambda and lr  24 trials, 2 at once: GPSampler      0.0023 below the top
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from orpo_lightning.sweep.suggest import RANDOM_TRIALS

_TOP = 0.75
_NOISE = 0.01


@dataclass(frozen=True)
class Problem:
    """A function of parameters, with its optimum at 0.75.

    Args:
        name: said in the table.
        measure: the function.
        space: of its parameters.
        trials: of a sweep.
    """

    name: str
    measure: Callable[[Mapping[str, float]], float]
    space: Mapping[str, FloatDistribution]
    trials: int


def _over_lambda(values: Mapping[str, float]) -> float:
    return _TOP - 0.15 + 0.15 * math.exp(-((math.log(values["lambda"] / 0.2) / 0.9) ** 2))


def _over_both(values: Mapping[str, float]) -> float:
    x, y = math.log(values["lambda"] / 0.2) / 1.2, math.log(values["lr"] / 3e-5)
    return _TOP - 0.15 + 0.15 * math.exp(-(x * x + y * y - 0.9 * x * y))


_LAMBDA, _LR = FloatDistribution(0.01, 5, log=True), FloatDistribution(1e-6, 1e-3, log=True)
PROBLEMS = (
    Problem("lambda", _over_lambda, {"lambda": _LAMBDA}, trials=16),
    Problem("lambda and lr", _over_both, {"lambda": _LAMBDA, "lr": _LR}, trials=24),
)
SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "RandomSampler": lambda seed: RandomSampler(seed=seed),
    "TPESampler": lambda seed: TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=True),
    "GPSampler": lambda seed: GPSampler(seed=seed, n_startup_trials=RANDOM_TRIALS, warn_independent_sampling=False),
}


def distance_to_the_top(problem: Problem, make: Callable[[int], BaseSampler], workers: int, seed: int) -> float:
    """How far the best trial of a sweep is below the optimum, without noise.

    Args:
        problem: the function.
        make: makes a sampler of a seed.
        workers: trials that run at once.
        seed: of the sweep.
    """
    noise = np.random.default_rng(1000 + seed)
    study = optuna.create_study(direction="maximize")
    running: list[optuna.Trial] = []
    found: list[float] = []
    for number in range(problem.trials + workers):
        if number < problem.trials:
            study.sampler = make(seed * 100_003 + number)
            running.append(study.ask(dict(problem.space)))
        if running and len(running) >= min(workers, problem.trials - len(found)):
            trial = running.pop(0)
            found.append(problem.measure(trial.params))
            study.tell(trial, found[-1] + noise.normal(0, _NOISE))
    return _TOP - max(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12, help="sweeps of each kind")
    seeds = parser.parse_args().seeds
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for problem in PROBLEMS:
        for workers in (1, 2):
            for name, make in SAMPLERS.items():
                mean = np.mean([distance_to_the_top(problem, make, workers, seed) for seed in range(seeds)])
                print(
                    f"{problem.name:14} {problem.trials} trials, {workers} at once: {name:14} {mean:.4f} below the top"
                )


if __name__ == "__main__":
    main()
