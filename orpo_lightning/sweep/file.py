"""A sweep file in the format of Weights & Biases, as typed records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orpo_lightning.secret_names import is_secret_name
from orpo_lightning.sweep.block import Block, read_block
from orpo_lightning.sweep.command import KEPT, Command, options_of, read_command
from orpo_lightning.sweep.distributions import DISTRIBUTIONS, Distribution, read_distribution
from orpo_lightning.sweep.early import EarlyTermination, read_early_termination
from orpo_lightning.sweep.overruled import overruled

Method = Literal["grid", "random", "bayes"]
METHODS: tuple[Method, ...] = ("grid", "random", "bayes")
Goal = Literal["minimize", "maximize"]
GOALS: tuple[Goal, ...] = ("minimize", "maximize")
OF_THE_SWEEP = {"trainer.default_root_dir": "--out", "ckpt_path": "--resume"}
"""Settings that a sweep makes itself, and the option that is meant."""
_KEYS = (
    *("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap"),
    *("name", "description", "project", "entity"),
)
ACCURACY = "pref/accuracies"
"""How the name of an accuracy ends."""
_PARTNERS = (ACCURACY, "nll_response")
"""Measures of which each misleads without the other."""
_REFUSED = ("apiVersion", "kind", "controller", "job", "image_uri", "scheduler", "metrics")


@dataclass(frozen=True)
class Metric:
    """What the trials are compared by. Its value of a trial is the last that was logged: that of the model it leaves.

    Args:
        name: as it is logged.
        goal: whether small or large values are good.
        target: a trial that reaches it ends the sweep; None: nothing does.
    """

    name: str
    goal: Goal = "minimize"
    target: float | None = None

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that smaller is better."""
        return 1 if self.goal == "minimize" else -1

    def is_reached(self, value: float | None) -> bool:
        """Whether a value is as good as the target."""
        return self.target is not None and value is not None and self.sign * value <= self.sign * self.target


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Args:
        name: of the file, or the one that it says.
        method: how parameters are chosen.
        parameters: what each is drawn from.
        command: what a trial runs.
        metric: None where no trial is better than another.
        early_termination: None where every trial runs to its end.
        run_cap: the largest number of trials; None: that of the grid.
    """

    name: str
    method: Method
    parameters: Mapping[str, Distribution]
    command: Command
    metric: Metric | None = None
    early_termination: EarlyTermination | None = None
    run_cap: int | None = None

    @property
    def beside(self) -> tuple[str, ...]:
        """What is recorded beside the metric: accuracy and likelihood, as either alone is bought with the other.

        Example:
            >>> Sweep("a", "grid", {}, Command(()), Metric("val/pref/accuracies")).beside
            ('val/nll_response',)
            >>> Sweep("a", "grid", {}, Command(()), None).beside
            ('val/pref/accuracies', 'val/nll_response')
        """
        name = self.metric.name if self.metric else ""
        of_set = next((name.removesuffix(each) for each in _PARTNERS if name.endswith(f"/{each}")), "val/")
        return tuple(f"{of_set}{each}" for each in _PARTNERS if f"{of_set}{each}" != name)

    @property
    def grid_size(self) -> int | None:
        """How many trials a grid has; None of other methods."""
        if self.method != "grid":
            return None
        return math.prod(each.count or 0 for each in self.parameters.values())

    def differences(self, other: Sweep) -> list[str]:
        """The keys of the file by which two sweeps cannot be one; `run_cap` and the name are none of them."""
        keys = {
            "method": (self.method, other.method),
            "parameters": (dict(self.parameters), dict(other.parameters)),
            "command": (self.command, other.command),
            "metric": (self.metric, other.metric),
            "early_terminate": (self.early_termination, other.early_termination),
        }
        # as they are written: 1, 1.0 and true are equal, and are not typed the same
        return [key for key, (ours, theirs) in keys.items() if repr(ours) != repr(theirs)]


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file.

    Args:
        path: the file.

    Raises:
        ValueError: something in it is wrong, or cannot be done without an account; names the line and what is accepted.
    """
    block = read_block(path)
    block.only(_KEYS, _REFUSED)
    if "method" not in block:
        raise block.mistake("", f"has no method; accepted: {', '.join(METHODS)}")
    method = block.one_of("method", METHODS, "")
    metric = _metric(block.block("metric")) if "metric" in block else None
    early = read_early_termination(block.block("early_terminate")) if "early_terminate" in block else None
    for key, needs_metric in (("method", method == "bayes"), ("early_terminate", early is not None)):
        if needs_metric and metric is None:
            raise block.mistake(key, "needs a metric; add metric: {name: val/pref/accuracies, goal: maximize}")
    run_cap = block.whole("run_cap", 1) if "run_cap" in block else None
    if "parameters" not in block:
        raise block.mistake("", "has no parameters; accepted: names of settings, such as model.objective.lambda_")
    parameters = _parameters(block.block("parameters"), method)
    command = read_command(block)
    _check_command(block, command, parameters)
    return Sweep(
        name=block.text("name") or path.stem,
        method=method,
        parameters=parameters,
        command=command,
        metric=metric,
        early_termination=early,
        run_cap=run_cap,
    )


def _metric(block: Block) -> Metric:
    block.only(("name", "goal", "target"), refused=("impute", "impute_while_running"))
    if not block.text("name"):
        raise block.mistake("", "has no name; accepted: a measure of docs/metrics.md, such as val/pref/accuracies")
    goal = block.one_of("goal", GOALS, "minimize")
    target = block.number("target") if "target" in block else None
    return Metric(block.text("name"), goal, target)


def _parameters(block: Block, method: Method) -> dict[str, Distribution]:
    # in the order of Weights & Biases, in which a class also comes before its arguments
    found = {name: read_distribution(block.block(name)) for name in sorted(block)}
    if not found:
        raise block.mistake("", "is empty; accepted: names of settings, such as model.objective.lambda_")
    for name, distribution in found.items():
        if name in OF_THE_SWEEP:
            raise block.mistake(name, f"is set by the sweep itself; accepted: the option {OF_THE_SWEEP[name]}")
        if is_secret_name(name):
            raise block.mistake(name, f"is {KEPT}")
        if method == "grid" and not distribution.count:
            countable = [each for each in DISTRIBUTIONS if "log" not in each and each != "uniform"]
            raise block.mistake(name, f"has no values that a grid can go through; accepted: {', '.join(countable)}")
    return found


def _check_command(block: Block, command: Command, parameters: Mapping[str, Distribution]) -> None:
    found = overruled(command.after_parameters, parameters)
    if found is not None:
        option, name = found
        raise block.mistake(
            "command",
            f"has {option} after ${{args}}, which would set {name} in every trial; put it before, or leave "
            "one of the two out",
        )
    for option, value in options_of(command.words):
        if option == "--ckpt_path" and value != "last":
            raise block.mistake(
                "command",
                f"has --ckpt_path={value}; accepted: last, as each trial goes on from its own checkpoint; "
                "for weights to start from: --model.policy.name_or_path",
            )
