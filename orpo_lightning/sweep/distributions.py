"""What the values of a parameter are drawn from: the distributions of a sweep file, and what they are to Optuna."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpo_lightning.sweep.block import Block

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Drawn = int | float
"""What Optuna draws for a parameter: a number, or the place of a value in its list."""


class Distribution(ABC):
    """Where the values of a parameter come from."""

    @abstractmethod
    def in_optuna(self) -> BaseDistribution:
        """What Optuna draws from."""

    def value(self, drawn: Drawn) -> Any:
        """The value of the parameter for what Optuna has drawn."""
        return drawn

    def points(self) -> tuple[Any, ...] | None:
        """All values, as a grid goes through them; None where there are endlessly many."""
        return None


@dataclass(frozen=True)
class Choice(Distribution):
    """``values``, each as likely; a single one is a constant.

    Args:
        values: of any type.
    """

    values: tuple[Any, ...]

    def in_optuna(self) -> BaseDistribution:
        """The places of the values: Optuna knows no lists as values."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(range(len(self.values)))

    def value(self, drawn: Drawn) -> Any:
        """The value at a place."""
        return self.values[int(drawn)]

    def points(self) -> tuple[Any, ...]:
        """The values in their order."""
        return self.values


@dataclass(frozen=True)
class WholeNumbers(Distribution):
    """``int_uniform``: whole numbers, both ends included."""

    low: int
    high: int

    def in_optuna(self) -> BaseDistribution:
        """Whole numbers."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)

    def points(self) -> tuple[int, ...]:
        """One after another."""
        return tuple(range(self.low, self.high + 1))


@dataclass(frozen=True)
class Numbers(Distribution):
    """``uniform``: all numbers between two."""

    low: float
    high: float

    def in_optuna(self) -> BaseDistribution:
        """Numbers."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high)


@dataclass(frozen=True)
class LogNumbers(Distribution):
    """``log_uniform_values``, and ``log_uniform`` by exponents of e: every factor is as likely as any other."""

    low: float
    high: float

    def in_optuna(self) -> BaseDistribution:
        """Numbers by their logarithm."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=True)


@dataclass(frozen=True)
class Multiples(Distribution):
    """``q_uniform``: multiples of a number, between two.

    Example:
        >>> Multiples(0.1, 0.3, 0.1).value(3), Multiples(0, 6, 2).value(2)
        (0.3, 4)
    """

    low: float
    high: float
    of: float

    def in_optuna(self) -> BaseDistribution:
        """How many times the number is taken."""
        from optuna.distributions import IntDistribution

        return IntDistribution(round(self.low / self.of), round(self.high / self.of))

    def value(self, drawn: Drawn) -> float:
        """So many times the number, without the rounding errors of the product."""
        return float(f"{drawn * self.of:.12g}") if isinstance(self.of, float) else int(drawn) * self.of

    def points(self) -> tuple[float, ...]:
        """From the lower end on, the upper one left out: a grid of Weights & Biases is that."""
        count = max(0, math.ceil((self.high - self.low) / self.of - 1e-9))
        steps = (self.low + i * self.of for i in range(count))
        return tuple(step if isinstance(step, int) else float(f"{step:.12g}") for step in steps)


_KEYS = ("value", "values", "min", "max", "q", "distribution")
_REFUSED = ("probabilities", "mu", "sigma", "a", "b")


def read_distribution(block: Block) -> Distribution:
    """What a parameter of a sweep file is drawn from.

    Args:
        block: the mapping under the name of the parameter.

    Raises:
        ValueError: it is none that is supported; names those that are.
    """
    if "parameters" in block:
        raise block.mistake("parameters", "nests; write the parameters with dotted names, such as model.optimizer.lr")
    block.only(_KEYS, _REFUSED)
    name = block.text("distribution") or _usual(block)
    if name not in DISTRIBUTIONS:
        raise block.mistake("distribution", f"= {name} is not supported; accepted: {', '.join(DISTRIBUTIONS)}")
    needed, read = DISTRIBUTIONS[name]
    for key in block:
        if key not in (*needed, "distribution"):
            raise block.mistake(key, f"is not for {name}; accepted: {', '.join(needed)}")
    for key in needed:
        if key not in block and key != "q":
            raise block.mistake("", f"has no {key}, which {name} needs")
    return read(block)


def _usual(block: Block) -> str:
    """The distribution where none is named."""
    for key, name in (("value", "constant"), ("values", "categorical")):
        if key in block:
            return name
    if "min" in block and "max" in block:
        are_whole = all(isinstance(block.number(key), int) for key in ("min", "max"))
        return "q_uniform" if "q" in block else "int_uniform" if are_whole else "uniform"
    raise block.mistake("", "says no values; accepted: value, values, or min and max")


def _constant(block: Block) -> Distribution:
    return Choice((block.value("value"),))


def _categorical(block: Block) -> Distribution:
    values = block.value("values")
    if not isinstance(values, list) or not values:
        raise block.mistake("values", f"= {values} is not a list of values; accepted: [A, B, ...]")
    return Choice(tuple(values))


def _int_uniform(block: Block) -> Distribution:
    low, high = _range(block)
    for key, value in (("min", low), ("max", high)):
        if not isinstance(value, int):
            raise block.mistake(key, f"= {value} is not a whole number, which int_uniform needs")
    return WholeNumbers(int(low), int(high))


def _uniform(block: Block) -> Distribution:
    low, high = _range(block)
    return Numbers(float(low), float(high))


def _q_uniform(block: Block) -> Distribution:
    low, high = _range(block)
    return Multiples(low, high, block.above("q", 0, 1))


def _log_uniform_values(block: Block) -> Distribution:
    low, high = _range(block)
    if low <= 0:
        raise block.mistake("min", f"= {low} has no logarithm; accepted: more than 0")
    return LogNumbers(float(low), float(high))


def _log_uniform(block: Block) -> Distribution:
    low, high = _range(block)
    try:
        return LogNumbers(math.exp(low), math.exp(high))
    except OverflowError:
        raise block.mistake("max", f"= {high} is an exponent of e; for the values: log_uniform_values") from None


def _range(block: Block) -> tuple[float, float]:
    low, high = block.number("min"), block.number("max")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise block.mistake("min", f"= {low} is not below max = {high}")
    return low, high


DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], Callable[[Block], Distribution]]] = {
    "constant": (("value",), _constant),
    "categorical": (("values",), _categorical),
    "int_uniform": (("min", "max"), _int_uniform),
    "uniform": (("min", "max"), _uniform),
    "q_uniform": (("min", "max", "q"), _q_uniform),
    "log_uniform_values": (("min", "max"), _log_uniform_values),
    "log_uniform": (("min", "max"), _log_uniform),
}
"""Those of a sweep file that are supported: their keys, and how they are read."""
