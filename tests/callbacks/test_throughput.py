"""Time, rate and memory of every optimizer step, of all that it was split into."""

import time

import pytest
import torch
from helpers import run
from lightning.pytorch.callbacks import Callback

from orpo_lightning import ORPO, SFT
from orpo_lightning.callbacks.throughput import Throughput, peak_memory
from orpo_lightning.testing import make_rows

COLUMNS = {"time/step_s", "time/pairs_per_s", "time/tokens_per_s", "memory/peak_gb"}
ROWS = make_rows(22)


def measured(**options):
    found = run(
        options.pop("objective", ORPO()), ROWS, callbacks=[Throughput(), *options.pop("callbacks", [])], **options
    )
    return [
        {name: value for name, value in logged.items() if name in COLUMNS} | {"step": step}
        for step, logged in found.history
        if "time/step_s" in logged
    ], found


@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_optimizer_step_has_its_time_and_its_rates(accumulate):
    steps, found = measured(accumulate_grad_batches=accumulate)
    assert [each["step"] for each in steps] == list(range(6))
    assert all(set(each) == COLUMNS | {"step"} for each in steps)
    # 8 + 8 + 6 pairs an epoch
    pairs = [each["time/pairs_per_s"] * each["time/step_s"] for each in steps]
    assert pairs == pytest.approx([8, 8, 6] * 2)
    assert all("train/loss" in logged for _, logged in found.history if "time/step_s" in logged)


def tokens_of(rows):
    return sum(len(row.prompt) + sum(len(each.ids) - 1 for each in row.responses) for row in rows)


def test_tokens_are_those_that_the_policy_ran_on():
    steps, _ = measured(accumulate_grad_batches=2)
    tokens = [each["time/tokens_per_s"] * each["time/step_s"] for each in steps]
    assert sum(tokens[:3]) == pytest.approx(tokens_of(ROWS))


def test_responses_that_are_left_out_do_not_count():
    steps, _ = measured(objective=SFT())
    tokens = [each["time/tokens_per_s"] * each["time/step_s"] for each in steps]
    assert sum(tokens[:3]) < tokens_of(ROWS)


class _Slow(Callback):
    def on_validation_batch_start(self, *args, **kwargs):
        time.sleep(1)


def test_the_time_of_a_validation_is_that_of_no_step():
    steps, _ = measured(validation=make_rows(4, seed=9), callbacks=[_Slow()])
    assert max(each["time/step_s"] for each in steps) < 1


def test_the_totals_are_the_sums():
    throughput = Throughput()
    run(ORPO(), ROWS, callbacks=[throughput], accumulate_grad_batches=2)
    totals = throughput.totals
    assert (totals.steps, totals.pairs, totals.tokens) == (6, 44, 2 * tokens_of(ROWS))
    assert totals.seconds > 0
    assert totals.peak_gb > 0.05


def test_a_slot_that_only_a_filler_takes_is_no_pair():
    throughput = Throughput()
    run(ORPO(), make_rows(10), callbacks=[throughput], data={"global_batch_size": 4}, accumulate_grad_batches=3)
    assert throughput.totals.pairs == 20


def test_the_memory_of_a_process_is_that_which_the_system_tells():
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e9
    assert peak_memory(torch.device("cpu")) == pytest.approx(peak, rel=0.05)
