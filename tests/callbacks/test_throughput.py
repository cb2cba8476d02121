"""Time, rate and memory of every optimizer step, of all that it was split into."""

import pytest
import torch
from helpers import run
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from orpo_lightning import DPO, ORPO, SFT, PreferenceModule
from orpo_lightning.callbacks import peak_rate as peak_rates
from orpo_lightning.callbacks.peak_memory import peak_memory
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.models.work import ModelSize
from orpo_lightning.testing import make_rows

COLUMNS = {
    *("time/step_s", "time/pairs_per_s", "time/tokens_per_s", "time/data_wait_s", "time/mfu"),
    *("work/tflop", "work/saved_by_sharing", "memory/peak_gb", "time/total_s"),
    *(f"work/total_{name}" for name in ("pairs", "tokens", "tflop")),
}
ROWS = make_rows(22)


def measured(**options):
    callbacks = options.pop("callbacks", [])
    own = [] if any(isinstance(each, Throughput) for each in callbacks) else [Throughput()]
    found = run(options.pop("objective", ORPO()), ROWS, callbacks=[*own, *callbacks], **options)
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


def flops_of(rows, size, prompt_logps, prompts_each=1):
    """By hand: each token is multiplied with each weight, and each query meets the keys that it sees."""
    total = 0
    for row in rows:
        prompt, responses = len(row.prompt), [len(each.ids) - 1 for each in row.responses]
        tokens = prompts_each * prompt + sum(responses)
        scored = sum(each + 1 for each in responses) + prompt_logps * (prompt - 1)
        seen = prompts_each * sum(range(1, prompt + 1)) + sum(prompt + i for n in responses for i in range(1, n + 1))
        total += 6 * size.linear * tokens + 6 * size.head * scored + 12 * size.attention * seen
    return total


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("objective", [ORPO(), DPO()], ids=["ORPO", "DPO"])
def test_the_work_is_that_of_the_tokens_and_what_sharing_saves_that_of_the_repeated_prompts(objective, accumulate):
    steps, _ = measured(objective=objective, accumulate_grad_batches=accumulate)
    size = ModelSize.of(tiny_model("opt"))
    alone, together = (flops_of(ROWS, size, objective.needs_prompt_logps, prompts) for prompts in (2, 1))
    assert sum(each["work/tflop"] for each in steps[:3]) * 1e12 == pytest.approx(together, rel=1e-6)
    saved = [each["work/saved_by_sharing"] for each in steps[:3]]
    assert min(saved) < 1 - together / alone < max(saved)


def test_utilisation_is_the_rate_of_the_work_by_the_stated_peak():
    throughput = Throughput(peak_tflops=0.5)
    run(ORPO(), ROWS, callbacks=[throughput])
    totals = throughput.totals
    assert totals.measures["time/mfu"] == pytest.approx(totals.done.flops / totals.seconds / 0.5e12)


def test_a_measured_peak_is_the_best_of_several_products(monkeypatch):
    ticks = iter([0, 9, 10, 14, 20, 22, 30, 33, 40, 48])  # five products: 9, 4, 2, 3 and 8 seconds
    monkeypatch.setattr(peak_rates, "_now", lambda device: next(ticks))
    peak_rates.peak_rate.cache_clear()
    device = torch.device("cpu")
    assert peak_rates.peak_rate(device, torch.float32) == 2 * 1024**3 / 2
    assert peak_rates.peak_rate(device, torch.float32) == 2 * 1024**3 / 2  # without another product
    peak_rates.peak_rate.cache_clear()


def test_work_is_that_of_whole_weights_where_a_strategy_takes_them_apart(monkeypatch):
    class Sharding(SingleDeviceStrategy):
        def setup(self, trainer):
            monkeypatch.setattr(ModelSize, "of", None)  # from here on, shapes are those of shards
            super().setup(trainer)

    expected, _ = measured(max_epochs=1)
    found, _ = measured(max_epochs=1, strategy=Sharding("cpu"))
    assert [each["work/tflop"] for each in found] == [each["work/tflop"] for each in expected]


@pytest.mark.parametrize("peak", [0, -1.0])
def test_a_peak_that_is_none_is_refused(peak):
    with pytest.raises(ValueError, match=r"throughput.peak_tflops = .*; accepted: a number above 0"):
        Throughput(peak)


def test_waiting_for_data_is_that_of_the_loader():
    throughput = Throughput()
    steps, found = measured(callbacks=[throughput])
    waited = found.trainer.train_dataloader.seconds_waited
    assert waited > 0
    assert throughput.totals.done.seconds_waited <= waited
    # the first batch of an epoch may be fetched before the clock runs, and the end of the data after its last step
    assert throughput.totals.done.seconds_waited == pytest.approx(sum(each["time/data_wait_s"] for each in steps))


def test_waiting_for_data_goes_on_with_a_loader_that_is_made_anew():
    steps, _ = measured(max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert len(steps) == 9
    assert all(each["time/data_wait_s"] > 0 for each in steps)


def test_nothing_is_saved_where_each_response_has_a_prompt_of_its_own():
    throughput = Throughput()
    steps, _ = measured(callbacks=[throughput], module={"layout": "padded"})
    assert {each["work/saved_by_sharing"] for each in steps} == {0.0}
    packed = Throughput()
    measured(callbacks=[packed])
    assert throughput.totals.done.flops == packed.totals.done.flops  # what is needed is the same
    assert packed.totals.done.saved_by_sharing > 0


def test_the_measure_of_the_peak_takes_no_random_number_of_the_run():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    peak_rates.peak_rate.cache_clear()
    peak_rates.peak_rate(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.rand(2), expected)


class _Clock(Callback):
    """A second passes between two looks at it, and a thousand in a batch of a validation."""

    def __init__(self):
        self.now = 0

    def perf_counter(self):
        self.now += 1
        return self.now

    def on_validation_batch_start(self, *args, **kwargs):
        self.now += 1000


def test_the_time_of_a_validation_is_that_of_no_step(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr("orpo_lightning.callbacks.throughput.time", clock)
    steps, _ = measured(validation=make_rows(4, seed=9), callbacks=[clock])
    assert clock.now > 2000
    assert max(each["time/step_s"] for each in steps) < 10


def test_the_totals_are_the_sums():
    throughput = Throughput()
    run(ORPO(), ROWS, callbacks=[throughput], accumulate_grad_batches=2)
    totals = throughput.totals
    assert (totals.steps, totals.done.pairs, totals.done.tokens) == (6, 44, 2 * tokens_of(ROWS))
    assert totals.seconds > 0
    assert totals.peak_gb > 0.05


def test_a_slot_that_only_a_filler_takes_is_no_pair():
    throughput = Throughput()
    run(ORPO(), make_rows(10), callbacks=[throughput], data={"global_batch_size": 4}, accumulate_grad_batches=3)
    assert throughput.totals.done.pairs == 20


def test_the_memory_of_a_process_is_that_which_the_system_tells():
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e9
    assert peak_memory(torch.device("cpu")) == pytest.approx(peak, rel=0.05)


def test_what_the_run_took_so_far_is_logged_at_each_step():
    steps, _ = measured(accumulate_grad_batches=2)
    for total, of_step in (
        ("work/total_pairs", lambda each: each["time/pairs_per_s"] * each["time/step_s"]),
        ("work/total_tokens", lambda each: each["time/tokens_per_s"] * each["time/step_s"]),
        ("work/total_tflop", lambda each: each["work/tflop"]),
        ("time/total_s", lambda each: each["time/step_s"]),
    ):
        sums = [sum(of_step(each) for each in steps[: i + 1]) for i in range(len(steps))]
        assert [each[total] for each in steps] == pytest.approx(sums, rel=1e-5), total


@pytest.mark.parametrize(("mode", "share"), [("copy", 1 / 3), ("cached", 0)])
def test_the_work_of_the_run_has_the_forward_passes_of_a_live_reference_and_that_of_a_step_has_not(mode, share):
    module = {"policy": PolicyConfig("tiny"), "reference": ReferenceConfig(mode=mode)}
    steps, _ = measured(objective=DPO(), module_class=PreferenceModule, module=module)
    policy = [sum(each["work/tflop"] for each in steps[: i + 1]) for i in range(len(steps))]
    assert [each["work/total_tflop"] for each in steps] == pytest.approx([(1 + share) * each for each in policy])


def test_a_checkpoint_of_before_references_were_counted_is_taken():
    throughput = Throughput()
    throughput.load_state_dict({"steps": 3, "seconds": 1.0, "done": [8.0, 100.0, 5.0, 6.0, 0.5]})
    assert throughput.state_dict()["done"] == [8.0, 100.0, 5.0, 6.0, 0.5, 0.0]


def test_a_run_that_goes_on_counts_on_and_another_one_from_nothing():
    throughput = Throughput()
    run(ORPO(), ROWS, callbacks=[throughput], max_epochs=1)
    resumed = Throughput()
    resumed.load_state_dict(throughput.state_dict())
    assert resumed.state_dict() == throughput.state_dict()
    assert resumed.state_dict()["steps"] == 3
    run(ORPO(), ROWS, callbacks=[resumed], max_epochs=1)  # from step 0: what it had loaded is of another run
    assert resumed.state_dict()["done"][:3] == throughput.state_dict()["done"][:3]
