"""P3: the same global batch gives the same loss, metrics, gradients and weights, however it is split or laid out."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from helpers import Exploding, leave_together, run, run_on_two_ranks, slow
from invariance import OBJECTIVES, assert_same, load, rows_of
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from pages import page_named

from orpo_lightning import ORPO, NonFiniteError
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.testing import make_rows


@pytest.fixture(scope="module")
def whole():
    """Runs with one micro-batch a step, in fp64: what every other arrangement has to equal."""
    return {name: run(make(), rows_of("uneven"), make_rows(7, seed=9)) for name, make in OBJECTIVES.items()}


@pytest.mark.parametrize("accumulate", [2, slow(8)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_changes_nothing(whole, name, accumulate):
    split = run(OBJECTIVES[name](), rows_of("uneven"), make_rows(7, seed=9), accumulate_grad_batches=accumulate)
    assert_same(split, whole[name], 1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_padded_layout_equals_the_packed_one(whole, name):
    padded = run(
        OBJECTIVES[name](),
        rows_of("uneven"),
        make_rows(7, seed=9),
        module={"layout": "padded"},
        accumulate_grad_batches=2,
    )
    assert padded.module.policy._route == padded.module.policy._padded
    assert whole[name].module.policy._route == whole[name].module.policy._packed
    assert_same(padded, whole[name], 1e-10)


@pytest.mark.parametrize("name", ["orpo", slow("dpo"), slow("sft")])
@pytest.mark.parametrize("shape", ["opt", "llama"])
def test_in_fp32_losses_and_gradient_norms_agree_to_1e_5(name, shape):
    options = {"shape": shape, "dtype": torch.float32}
    one = run(OBJECTIVES[name](), module=options)
    split = run(OBJECTIVES[name](), module={**options, "layout": "padded"}, accumulate_grad_batches=8)
    for (_, found), (_, expected) in zip(split.history, one.history, strict=True):
        for key in ("train/loss", "train/grad_norm"):
            assert found[key] == pytest.approx(expected[key], rel=1e-5)


@pytest.mark.parametrize("name", ["orpo", "dpo", "sft"])
def test_row_weights_and_a_row_of_weight_0_are_the_same_in_every_split(name):
    rows = rows_of("weighted")
    one = run(OBJECTIVES[name](), rows, data={"global_batch_size": 4})
    # 10 pairs, 4 a step, 3 micro-batches: the last step has 2 rows for 3 micro-batches
    split = run(OBJECTIVES[name](), rows, data={"global_batch_size": 4}, accumulate_grad_batches=3)
    assert_same(split, one, 1e-10)


def test_a_row_of_weight_0_trains_nothing():
    rows = make_rows(4)
    ignored = dataclasses.replace(make_rows(1, seed=5)[0], weight=0.0)
    with_it = run(ORPO(nll_mean="sequences"), [*rows, ignored], data={"global_batch_size": 5, "shuffle": False})
    without = run(ORPO(nll_mean="sequences"), rows, data={"global_batch_size": 4, "shuffle": False})
    assert_same(with_it, without, 1e-10)


def test_limit_train_batches_trains_on_whole_global_batches():
    one = run(ORPO(), limit_train_batches=2)
    split = run(ORPO(), limit_train_batches=8, accumulate_grad_batches=4)
    assert one.trainer.global_step == 4
    assert_same(split, one, 1e-10)


def test_validation_does_not_depend_on_how_it_is_split():
    validation = make_rows(11, seed=9)
    values = []
    for accumulate in (1, 3, 8):
        found = run(ORPO(), validation=validation, accumulate_grad_batches=accumulate, max_epochs=1)
        values.append({k: v for _, logged in found.history for k, v in logged.items() if k.startswith("val/")})
    assert "val/pref/accuracies" in values[0]
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-10)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The same runs on two ranks (DDP over gloo), of one launch for all cases of the fast suite."""
    folder = tmp_path_factory.mktemp("ddp")
    run_on_two_ranks(__file__, folder, CASES=json.dumps(FIRST_LAUNCH))
    return folder


@pytest.fixture(scope="module")
def two_processes_of_others(tmp_path_factory):
    """Of one for the others."""
    folder = tmp_path_factory.mktemp("ddp_of_others")
    run_on_two_ranks(__file__, folder, CASES=json.dumps(SECOND_LAUNCH))
    return folder


DDP_CASES = {name: (name, "uneven", {"accumulate_grad_batches": 2}, 8) for name in OBJECTIVES} | {
    # 10 pairs, 4 a step, 2 ranks x 3 micro-batches: slots that only a filler can take, in every step
    "edge-orpo": ("orpo", "weighted", {"accumulate_grad_batches": 3}, 4),
    "edge-dpo": ("dpo", "weighted", {"accumulate_grad_batches": 3}, 4),
    "limit-orpo": ("orpo", "uneven", {"accumulate_grad_batches": 2, "limit_train_batches": 4}, 8),
}


FIRST_LAUNCH = ["orpo", "edge-orpo"]
SECOND_LAUNCH = [name for name in DDP_CASES if name not in FIRST_LAUNCH]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_LAUNCH)
def test_two_processes_equal_one(two_processes, whole, name):
    check_equals_one(two_processes, whole, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SECOND_LAUNCH)
def test_so_they_do_for_every_other_objective_and_length_of_an_epoch(two_processes_of_others, whole, name):
    check_equals_one(two_processes_of_others, whole, name)


def check_equals_one(folder, whole, name):
    objective, rows, options, global_batch = DDP_CASES[name]
    if name == objective:
        expected = whole[name]
    else:
        limit = {"limit_train_batches": 2} if "limit_train_batches" in options else {}
        expected = run(
            OBJECTIVES[objective](),
            rows_of(rows),
            make_rows(7, seed=9),
            data={"global_batch_size": global_batch},
            **limit,
        )
    assert_same(load(folder, name), expected, 1e-10)


@pytest.mark.slow
def test_two_processes_stop_on_the_same_non_finite_loss_and_name_the_same_rows(two_processes):
    bad = {row.row_id for row in make_rows(16) if len(row.responses[0].ids) == 3}
    for rank in (0, 1):
        message = (two_processes / f"non-finite-{rank}.txt").read_text()
        assert "the loss of optimizer step 0 is nan" in message
        assert set(message.split("Rows: ")[1].split(", ")) == bad


class TokensOfSteps(Callback):
    """How many tokens this process has had in each step."""

    def __init__(self):
        self.found = {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.found[trainer.global_step] = self.found.get(trainer.global_step, 0) + batch.num_tokens


@pytest.mark.slow
def test_the_imbalance_is_that_of_the_tokens_of_the_processes(two_processes):
    first, second = (json.loads((two_processes / f"tokens-{rank}.json").read_text()) for rank in (0, 1))
    history = json.loads((two_processes / "throughput.json").read_text())
    logged = [values["work/imbalance"] for _, values in history if "time/step_s" in values]
    of_both = zip(first.values(), second.values(), strict=True)
    assert logged == pytest.approx([2 * max(tokens) / sum(tokens) for tokens in of_both])
    assert max(logged) > 1.2  # the step with the row that is longer than all others together
    assert min(logged) < 1.1


@pytest.mark.slow
def test_the_page_names_what_several_processes_log_beyond_one(two_processes):
    alone = {key for _, values in run(ORPO(), callbacks=[Throughput()]).history for key in values}
    together = {key for _, values in json.loads((two_processes / "throughput.json").read_text()) for key in values}
    rows = page_named("metrics").rows("key, with several processes | unit | what it is | good")
    assert {f"`{key}`" for key in together - alone} == {key for key, *_ in rows}


def count_tokens(folder):
    tokens, rank = TokensOfSteps(), os.environ["RANK"]
    strategy = DDPStrategy(process_group_backend="gloo")
    counted = run(ORPO(), rows_of("uneven"), devices=2, strategy=strategy, callbacks=[Throughput(), tokens])
    (folder / f"tokens-{rank}.json").write_text(json.dumps(tokens.found))
    if rank == "0":
        (folder / "throughput.json").write_text(json.dumps(counted.history))


def explode(folder):
    try:
        strategy = DDPStrategy(process_group_backend="gloo")
        run(Exploding(), make_rows(16), devices=2, strategy=strategy, data={"global_batch_size": 16})
    except NonFiniteError as error:
        (folder / f"non-finite-{os.environ['RANK']}.txt").write_text(str(error))


def main(folder: Path) -> None:
    cases = json.loads(os.environ["CASES"])
    for name in cases:
        objective, rows, options, global_batch = DDP_CASES[name]
        found = run(
            OBJECTIVES[objective](),
            rows_of(rows),
            make_rows(7, seed=9),
            data={"global_batch_size": global_batch},
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo"),
            **options,
        )
        if found.trainer.global_rank == 0:
            saved = {"history": json.dumps(found.history), "gradients": found.gradients, "weights": found.weights}
            torch.save(saved, folder / f"{name}.pt")
    if cases == FIRST_LAUNCH:
        count_tokens(folder)
        explode(folder)
    leave_together()


class HeldGradients(Callback):
    """Whether there are gradients after each micro-batch."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, module, *others):
        self.found.append(any(parameter.grad is not None for parameter in module.parameters()))


def test_gradients_do_not_outlive_the_optimizer_step():
    held = HeldGradients()
    run(ORPO(), make_rows(16), accumulate_grad_batches=2, max_epochs=1, callbacks=[held])
    assert held.found == [True, False] * (len(held.found) // 2)
    assert held.found


def test_gradients_are_left_to_a_strategy_that_accumulates_them_itself():
    class Accumulating(SingleDeviceStrategy):
        handles_gradient_accumulation = True

    held = HeldGradients()
    run(ORPO(), make_rows(8), max_epochs=1, callbacks=[held], strategy=Accumulating(torch.device("cpu")))
    assert held.found == [True]


def test_half_precision_weights_on_a_cpu_are_moved_by_sgd():
    start = torch.cat([p.detach().flatten().double() for p in tiny_model("llama", torch.bfloat16).parameters()])
    options = {"shape": "llama", "dtype": torch.bfloat16}
    trained = run(ORPO(), make_rows(8), module=options, max_epochs=1, precision="bf16-true")
    moved = (trained.weights != start).double().mean()
    assert moved > 0.1
