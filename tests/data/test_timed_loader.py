"""The loader counts the time between the call for a batch and its arrival, and no other."""

import pytest

from orpo_lightning.data import timed_loader
from orpo_lightning.data.timed_loader import TimedLoader


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Batches:
    """Items that take two seconds each."""

    def __init__(self, clock):
        self.clock = clock

    def __len__(self):
        return 3

    def __getitem__(self, place):
        if place >= 3:
            raise IndexError
        self.clock.now += 2
        return place


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timed_loader.time, "perf_counter", clock)
    return clock


def test_packing_counts_and_what_is_done_with_a_batch_does_not(clock):
    loader = TimedLoader(Batches(clock), batch_size=None)
    for epoch in (1, 2):
        for expected, found in enumerate(loader):
            assert found == expected
            assert loader.seconds_waited == 6 * (epoch - 1) + 2 * (expected + 1)
            clock.now += 5
    assert loader.seconds_waited == 12


def test_a_batch_that_cannot_be_made_counts_too(clock):
    class Broken(Batches):
        def __getitem__(self, place):
            super().__getitem__(place)
            raise ValueError("no")

    loader = TimedLoader(Broken(clock), batch_size=None)
    with pytest.raises(ValueError, match="no"):
        next(iter(loader))
    assert loader.seconds_waited == 2


def test_workers_give_the_same_batches():
    loader = TimedLoader(range(5), batch_size=None, num_workers=1)
    assert list(loader) == [0, 1, 2, 3, 4]
    assert loader.seconds_waited > 0
