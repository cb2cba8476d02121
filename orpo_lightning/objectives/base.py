"""The contract of an objective, and the registry that finds objectives by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from orpo_lightning.records import ObjectiveOutput
from orpo_lightning.secrets import hide_values

_BUILT_IN = __name__.rpartition(".")[0] + "."
_registry: dict[str, list[type[Objective]]] = {}

Logps: TypeAlias = Any
"""`PairLogps`, or `UnpairedLogps` of an objective without pairs. A subclass says which: Any lets it."""


class Objective(ABC):
    """Maps the log-probabilities of preference pairs to a loss per pair. Subclass it to add an objective.

    A subclass stores the arguments of its ``__init__`` under their names, implements ``__call__`` and declares what
    it reads; it is then known by its class name to :func:`get_objective`, to config files and to the command line.
    The needs are read from the instance, so they may be properties that depend on its arguments.

    Example:
        >>> from orpo_lightning import PairLogps
        >>> class SquaredMargin(Objective):
        ...     def __init__(self, width: float = 0.5) -> None:
        ...         self.width = width
        ...
        ...     def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        ...         return ObjectiveOutput((policy.chosen_mean - policy.rejected_mean - self.width) ** 2)
        >>> get_objective("SquaredMargin")(width=0.7)
        SquaredMargin(width=0.7)
    """

    formula: ClassVar[str] = ""
    """The loss in one line, for the table of objectives."""
    citation: ClassVar[str] = ""
    """Where the formula is from."""
    strength_name: ClassVar[str | None] = None
    """The argument that says how much the preference counts, which a sweep varies first; None where there is none."""

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model's log-probabilities are read. If not, no reference is ever loaded."""
        return False

    @property
    def needs_rejected(self) -> bool:
        """Whether the rejected responses are read. If not, training never runs them."""
        return True

    @property
    def needs_pairs(self) -> bool:
        """Whether it is called with `PairLogps`. If not, it is with `UnpairedLogps`, single responses."""
        return True

    @property
    def needs_mismatched(self) -> bool:
        """Whether ``mismatched`` is read: each prompt followed by a response to another one."""
        return False

    @property
    def needs_prompt_logps(self) -> bool:
        """Whether ``chosen_full`` is read: a likelihood over prompt and response."""
        return False

    @property
    def couples_pairs(self) -> bool:
        """Whether a pair's loss depends on the other pairs of the batch. If so, a global batch is never split."""
        return False

    @abstractmethod
    def __call__(self, policy: Logps, reference: Logps | None = None) -> ObjectiveOutput:
        """Values per pair, ``(B,)``; nothing is reduced or weighted here, the module does that.

        Args:
            policy: log-probabilities under the model that is trained.
            reference: the same under the reference model; None unless `needs_reference`.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """State beyond the arguments (a running mean, say) to keep in checkpoints: tensors and plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    @classmethod
    def argument_names(cls) -> tuple[str, ...]:
        """Names of the arguments of ``__init__``."""
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return tuple(name for name, each in inspect.signature(cls).parameters.items() if each.kind not in variadic)

    def arguments(self) -> dict[str, Any]:
        """The arguments that this objective was made with."""
        return {name: getattr(self, name) for name in self.argument_names()}

    def __repr__(self) -> str:
        shown = hide_values(self.arguments())
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not inspect.isabstract(cls):
            _register(cls)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _register(cls: type[Objective]) -> None:
    same_name = _registry.setdefault(cls.__name__.lower(), [])
    for other in same_name:
        if other.__module__.startswith(_BUILT_IN) and _path(other) != _path(cls):
            raise ValueError(
                f"{_path(cls)}: the name {other.__name__} is taken by the built-in {_path(other)}; rename the class"
            )
    # the same path again is a reloaded module or a notebook cell that ran twice
    same_name[:] = [other for other in same_name if _path(other) != _path(cls)] + [cls]


def get_objective(name: str) -> type[Objective]:
    """The objective class of that name.

    Args:
        name: class name in any case (``"ORPO"``, ``"dpo"``), or the path of a class (``"my_losses.SquaredMargin"``).

    Raises:
        ValueError: no objective has the name, or several user classes have it.

    Example:
        >>> get_objective("orpo")(lambda_=0.2)
        ORPO(lambda_=0.2, nll_over='prompt_and_response', nll_mean='tokens')
    """
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            cls = getattr(importlib.import_module(module), attribute, None)
        except (ModuleNotFoundError, ValueError) as error:
            raise ValueError(f"objective {name!r} cannot be imported: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, Objective)) or inspect.isabstract(cls):
            raise ValueError(f"{name} is not a subclass of orpo_lightning.Objective that can be made")
        return cls
    found = _registry.get(name.lower(), [])
    if len(found) > 1:
        raise ValueError(f"objective {name!r} is ambiguous; give the path of one: {', '.join(map(_path, found))}")
    if not found:
        near = difflib.get_close_matches(name.lower(), _registry, n=1)
        hint = f"did you mean {_registry[near[0]][0].__name__!r}? " if near else ""
        raise ValueError(f"no objective is named {name!r}; {hint}known: {', '.join(list_objectives())}")
    return found[0]


def list_objectives() -> tuple[str, ...]:
    """Names of all objectives that are known: the built-in ones and those of imported user modules.

    Example:
        >>> {"ORPO", "DPO", "IPO", "SFT"} <= set(list_objectives())
        True
    """
    return tuple(sorted({cls.__name__ for classes in _registry.values() for cls in classes}))


def check_range(
    objective: Objective, name: str, value: float, low: float, high: float = float("inf"), *, low_allowed: bool = True
) -> None:
    """Refuse an argument of an objective outside ``[low, high)``, or ``(low, high)`` if not `low_allowed`.

    Raises:
        ValueError: names the objective, the argument, the value and the accepted range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN compares false with everything, so it is refused here too
    if not is_number or not ((low <= value if low_allowed else low < value) and value < high):
        accepted = f"{'[' if low_allowed else '('}{low:g}, {high:g})"
        raise ValueError(f"{type(objective).__name__}: {name} = {value!r} is out of range; accepted: {accepted}")
