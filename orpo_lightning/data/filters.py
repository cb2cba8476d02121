"""Filters: small named predicates that say which pairs are dropped, each counted under its name."""

from __future__ import annotations

from collections.abc import Callable

from orpo_lightning.records import PreferencePair

Filter = Callable[[PreferencePair], bool]
"""True for a pair to drop."""


def empty_chosen(pair: PreferencePair) -> bool:
    """The chosen response is empty or whitespace."""
    return not pair.chosen.strip()


def empty_rejected(pair: PreferencePair) -> bool:
    """The rejected response is empty or whitespace."""
    return not pair.rejected.strip()


def identical_responses(pair: PreferencePair) -> bool:
    """Chosen and rejected are the same text."""
    return pair.chosen == pair.rejected


FILTERS: tuple[Filter, ...] = (empty_chosen, empty_rejected, identical_responses)
