"""What the values of a parameter are drawn from: the distributions of a sweep file, and what they are to Optuna."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpo_lightning.sweep.block import Block
from orpo_lightning.sweep.command import as_typed

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

    @property
    def count(self) -> int | None:
        """How many values a grid goes through; None where there are endlessly many."""
        return None

    def point(self, place: int) -> Any:
        """The value at a place, counted from 0, of those that a grid goes through."""
        raise AssertionError("a grid asks for the points of what can be counted")

    @property
    def is_varied(self) -> bool:
        """Whether trials differ in it."""
        return True

    @property
    def is_of_classes(self) -> bool:
        """Whether all values are texts, as names of classes are."""
        return False


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

    @property
    def count(self) -> int:
        """All of them."""
        return len(self.values)

    def point(self, place: int) -> Any:
        """The values in their order."""
        return self.values[place]

    @property
    def is_varied(self) -> bool:
        """A single one is not."""
        return len(self.values) > 1

    @property
    def is_of_classes(self) -> bool:
        """A mapping holds settings of a class too."""
        return all(isinstance(value, str) for value in self.values)


@dataclass(frozen=True)
class WholeNumbers(Distribution):
    """``int_uniform``: whole numbers, both ends included."""

    low: int
    high: int

    def in_optuna(self) -> BaseDistribution:
        """Whole numbers."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)

    @property
    def count(self) -> int:
        """With both ends."""
        return self.high - self.low + 1

    def point(self, place: int) -> int:
        """One after another."""
        return self.low + place


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

    @property
    def count(self) -> int:
        """The upper end left out: a grid of Weights & Biases is that."""
        return max(0, math.ceil((self.high - self.low) / self.of - 1e-9))

    def point(self, place: int) -> float:
        """From the lower end on."""
        step = self.low + place * self.of
        return step if isinstance(step, int) else float(f"{step:.12g}")


_LARGEST_EXPONENT = 700
"""Of e: what is beyond is no number any more, or 0."""
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
    asked = block.text("distribution")
    if asked and asked not in DISTRIBUTIONS:  # before its keys, which are right for it
        raise block.mistake("distribution", f"= {asked} is not supported; accepted: {', '.join(DISTRIBUTIONS)}")
    block.only(_KEYS, _REFUSED)
    name = asked or _usual(block)
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
    return Choice((_typed(block, "value"),))


def _categorical(block: Block) -> Distribution:
    values = _typed(block, "values")
    if not isinstance(values, list) or not values:
        raise block.mistake("values", f"= {values} is not a list of values; accepted: [A, B, ...]")
    return Choice(tuple(values))


def _typed(block: Block, key: str) -> Any:
    """What is under a key, if it can be typed on a command line."""
    value = block.value(key)
    try:
        as_typed(value)
    except TypeError:
        raise block.mistake(
            key,
            f"= {value} has no value that can be typed; accepted: numbers, true, false, null, texts, such as a date "
            "in quotes, and lists and mappings of these",
        ) from None
    return value


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
    exponents = _range(block)
    ends = []
    for key, exponent in zip(("min", "max"), exponents, strict=True):
        if not -_LARGEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
            raise block.mistake(
                key,
                f"= {exponent} is an exponent of e; accepted: -{_LARGEST_EXPONENT} to {_LARGEST_EXPONENT}; for the "
                "values themselves: log_uniform_values",
            )
        ends.append(math.exp(exponent))
    return LogNumbers(*ends)


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
