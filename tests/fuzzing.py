"""How inputs are made up: the same ones in every run, few in the ordinary suite and ten thousand in the slow one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import slow
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

FEW, MANY = 50, 10_000
at_every_length = pytest.mark.parametrize("examples", [FEW, slow(MANY)])
"""Of a test that passes the number on to :func:`for_all`."""


def for_all(examples: int, check: Callable[..., Any], *strategies: st.SearchStrategy[Any]) -> None:
    """Call a function with made-up arguments; the first that it fails on is made smaller before it is shown.

    Args:
        examples: how many; they are always the same ones, and none is kept for another run.
        check: raises where something is wrong.
        strategies: what its arguments are drawn from.
    """
    tried = 0

    def counting(arguments: Any) -> None:
        nonlocal tried
        tried += 1
        check(*arguments)

    rules = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    rules(given(st.tuples(*strategies))(counting))()
    print(f"{tried:,} inputs")
    assert tried >= examples
