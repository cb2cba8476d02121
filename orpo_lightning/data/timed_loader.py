"""A data loader that knows how long it was waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from orpo_lightning.packing import PackedBatch


class TimedLoader(DataLoader[PackedBatch]):
    """A data loader that adds up the time between the call for a batch and its arrival.

    Without workers that is the time of packing it, with workers what they lag behind.
    """

    seconds_waited = 0.0

    def __iter__(self) -> Any:
        return _TimedIterator(self, super().__iter__())


class _TimedIterator:
    def __init__(self, loader: TimedLoader, batches: Iterator[PackedBatch]) -> None:
        self._loader = loader
        self._batches = batches

    def __iter__(self) -> Iterator[PackedBatch]:
        return self

    def __next__(self) -> PackedBatch:
        start = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._loader.seconds_waited += time.perf_counter() - start
