"""P3 over strategies: a model that is shared out over two processes trains as it does in one."""

import json
import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Exploding, fsdp1_on_cpus, leave_together, run, run_on_two_ranks, with_random_trained_weights
from invariance import OBJECTIVES, assert_same, load, rows_of
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from orpo_lightning import NonFiniteError, OptimizerConfig, PreferenceModule
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig, load_causal_lm
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.strategies import FSDP1Strategy, FSDP2Strategy
from orpo_lightning.testing import make_rows


class Module(PreferenceModule):
    """Its reference is another model, so that no term is trivially 0."""

    def _check_reference(self, *args):
        pass


class KeysOfRank(Callback):
    """What this rank has logged, under which names."""

    def __init__(self):
        self.logged = []

    def on_train_batch_end(self, trainer, *others):
        self.logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def models(folder):
    """A policy and another reference, as folders."""
    places = [folder / name for name in ("policy", "reference")]
    for seed, place in enumerate(places):
        if not place.exists():
            tiny_model("opt", torch.float64, seed=seed).save_pretrained(place)
    return [str(place) for place in places]


def adapter_on(base, place):
    """An adapter that was trained before, and the head with it, as a folder."""
    if not place.exists():
        with_random_trained_weights(load_causal_lm(PolicyConfig(base, lora=LORA))).save_pretrained(place)
    return str(place)


def module_of(folder, mode="copy", **policy):
    base, other = models(folder)
    if policy.get("lora") == GOING_ON:
        policy["lora"] = LoraConfig(adapter=adapter_on(base, folder / "adapter"))
    reference = ReferenceConfig(None if mode == "adapter" else other, mode=mode)
    return {"policy": PolicyConfig(**{"name_or_path": base, "dtype": "float64", **policy}), "reference": reference}


@dataclass(frozen=True)
class Case:
    """A run: its objective, and settings of the model, of the strategy and of the trainer."""

    objective: str
    model: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)


DECAYING = OptimizerConfig(lr=0.05, weight_decay=0.1, algorithm="torch.optim.SGD")
LORA = LoraConfig(r=4, modules_to_save=["lm_head"])
WITH_A_LAYER = LoraConfig(r=4, modules_to_save=["layers.0"])
GOING_ON = "an adapter from before"
SINGLE = {"dtype": "float32"}
PRECISIONS = ["32-true", "bf16-mixed", "bf16-true"]
IN_FP32, IN_BF16 = (1e-5, 1e-5), (2e-3, 2e-2)
"""How far losses and gradient norms may be apart, relative: a number in bf16 is itself rounded to 4e-3.

On a CPU that multiplies in bf16, norms of one process are 1.6 % apart with one micro-batch a step and with four.
"""
EVERY = {name: Case(name) for name in OBJECTIVES}
FAST = {
    "orpo": EVERY["orpo"],
    "LoRA": Case("orpo", {"lora": LORA}),
    "averaged after each micro-batch": Case("orpo", strategy={"synchronize": "micro_batch"}),
}
OTHERS = {name: EVERY[name] for name in EVERY if name not in FAST} | {
    "cached reference": Case("dpo", {"mode": "cached"}),
    "LoRA and its reference": Case("dpo", {"lora": LoraConfig(r=4), "mode": "adapter"}),
    "LoRA that goes on": Case("orpo", {"lora": GOING_ON}),
    "gradient checkpointing": Case("orpo", {"gradient_checkpointing": True}),
}
LLAMA = {**SINGLE, "name_or_path": "tiny"}
IN_PRECISION = {
    f"{shape} in {precision}": Case("orpo", model, trainer={"precision": precision})
    for precision in PRECISIONS
    for shape, model in {
        "opt": SINGLE,
        "llama": LLAMA,
        "LoRA on bf16": {**LLAMA, "dtype": "bfloat16", "lora": LORA},
        "LoRA alone on bf16": {**LLAMA, "dtype": "bfloat16", "lora": LoraConfig(r=4)},
        "LoRA and a layer on bf16": {**LLAMA, "dtype": "bfloat16", "lora": WITH_A_LAYER},
    }.items()
}
CASES = FAST | OTHERS | IN_PRECISION
OF_DDP = ["LoRA"]
OTHERS_OF_DDP = ["cached reference", "LoRA and its reference"]
OF_FSDP1 = ["orpo"]
OTHERS_OF_FSDP1 = [
    *(case for case in CASES if case not in (*OF_FSDP1, *IN_PRECISION, "averaged after each micro-batch")),
    *("opt in 32-true", "llama in 32-true", "LoRA alone on bf16 in 32-true"),
]
"""Its products in bf16 are those of GPUs alone."""
FIRST_LAUNCH = {"fsdp2": [*FAST], "ddp": OF_DDP, "fsdp1": OF_FSDP1}
"""What the fast suite runs."""
SECOND_LAUNCH = {
    "fsdp2": [*OTHERS, *IN_PRECISION],
    "ddp": [*OTHERS_OF_DDP, *IN_PRECISION],
    "fsdp1": OTHERS_OF_FSDP1,
}


def train(case, folder, **options):
    wanted = CASES[case]
    # what bf16 rounds adds up over the steps, and is held to bounds that were set without decay
    decay = {} if case in IN_PRECISION else {"optimizer": DECAYING}
    return run(
        OBJECTIVES[wanted.objective](),
        rows_of("uneven"),  # 22 pairs in batches of 8, one as long as all the others together
        make_rows(7, seed=9),
        module_class=Module,
        module={**module_of(folder, **wanted.model), **decay},
        gradient_clip_val=1.0,
        **wanted.trainer,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one launch of two processes for the cases of the fast suite."""
    place = tmp_path_factory.mktemp("ranks")
    models(place)
    run_on_two_ranks(__file__, place, CASES=json.dumps(FIRST_LAUNCH))
    return place


@pytest.fixture(scope="module")
def folder_of_others(folder):
    """Of one for the others."""
    run_on_two_ranks(__file__, folder, CASES=json.dumps(SECOND_LAUNCH))
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The same runs in one process, each when it is asked for."""
    found = {}

    def of(case):
        if case not in found:
            found[case] = train(case, folder)
        return found[case]

    return of


@pytest.mark.parametrize("case", FAST)
def test_two_processes_with_half_of_the_weights_each_equal_one(folder, alone, case):
    assert_same(load(folder, f"fsdp2-{case}"), alone(case), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_so_they_do_for_every_other_objective_and_way_to_train(folder_of_others, alone, case):
    assert_same(load(folder_of_others, f"fsdp2-{case}"), alone(case), 1e-10)


@pytest.mark.parametrize("case", OF_DDP)
def test_two_processes_with_all_of_the_weights_each_equal_one(folder, alone, case):
    assert_same(load(folder, f"ddp-{case}"), alone(case), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS_OF_DDP)
def test_so_they_do_with_every_other_reference(folder_of_others, alone, case):
    assert_same(load(folder_of_others, f"ddp-{case}"), alone(case), 1e-10)


@pytest.mark.parametrize("case", OF_FSDP1)
def test_two_processes_with_half_of_flat_weights_each_equal_one(folder, alone, case):
    assert_same(load(folder, f"fsdp1-{case}"), alone(case), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS_OF_FSDP1)
def test_so_they_do_for_every_other_objective_and_reference(folder_of_others, alone, case):
    if case in IN_PRECISION:
        check_losses_and_norms(folder_of_others, alone, "fsdp1", case)
    else:
        found = load(folder_of_others, f"fsdp1-{case}")
        has_reference = OBJECTIVES[CASES[case].objective]().needs_reference and case != "cached reference"
        beside_frozen = "LoRA" in case or has_reference
        assert bool(found.gradients) != beside_frozen  # there torch cannot gather them
        assert_same(found, alone(case) if found.gradients else replace(alone(case), gradients=[]), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
@pytest.mark.parametrize("case", IN_PRECISION)
def test_in_every_precision_losses_and_gradient_norms_are_those_of_one(folder_of_others, alone, strategy, case):
    check_losses_and_norms(folder_of_others, alone, strategy, case)


def check_losses_and_norms(folder, alone, strategy, case):
    found, expected = load(folder, f"{strategy}-{case}"), alone(case)
    of_losses, of_norms = IN_BF16 if "bf16" in case else IN_FP32
    for key in ("train/loss", "train/grad_norm", "val/loss", "val/nll_response"):
        values, wanted = ([logged[key] for _, logged in each.history if key in logged] for each in (found, expected))
        assert len(values) > 1
        assert values == pytest.approx(wanted, rel=of_norms if key == "train/grad_norm" else of_losses), key


@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
def test_every_process_logs_the_same_numbers_under_the_same_names(folder, strategy):
    first, second = (json.loads((folder / f"{strategy}-logged-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) > 2
    assert first == second


def test_gradients_are_averaged_once_per_optimizer_step_or_after_each_micro_batch(folder):
    per_step, per_micro_batch = json.loads((folder / "reductions.json").read_text())
    assert per_step * 2 == per_micro_batch
    assert per_step > 0


def test_a_process_holds_its_part_of_the_weights_alone(folder):
    whole, parts = json.loads((folder / "parts.json").read_text())
    assert sum(parts) == whole
    assert max(parts) < 0.51 * whole


def test_all_stop_on_the_same_non_finite_loss_and_name_the_same_rows(folder):
    bad = {row.row_id for row in make_rows(16) if len(row.responses[0].ids) == 3}
    for rank in (0, 1):
        message = (folder / f"non-finite-{rank}.txt").read_text()
        assert "the loss of optimizer step 0 is nan" in message
        assert set(message.split("Rows: ")[1].split(", ")) == bad


class Reductions(Callback):
    """How often gradients were averaged in the first optimizer step."""

    def on_train_start(self, trainer, module):
        self.count, self.plain = 0, torch.distributed.reduce_scatter_single

        def counted(*args, **kwargs):
            self.count += trainer.global_step == 0
            return self.plain(*args, **kwargs)

        torch.distributed.reduce_scatter_single = counted

    def on_train_end(self, trainer, module):
        torch.distributed.reduce_scatter_single = self.plain


def train_all(cases, strategy_of, name, folder):
    """Keep what came of each; returns how often gradients were averaged in a step, by case."""
    rank, reductions = int(os.environ["RANK"]), {}
    for case in cases:
        keys, counter = KeysOfRank(), Reductions()
        options = {"strategy": strategy_of(case), "callbacks": [keys, counter]}
        found = train(case, folder, devices=2, accumulate_grad_batches=2, **options)
        reductions[case] = counter.count
        if case == "LoRA":
            (folder / f"{name}-logged-{rank}.json").write_text(json.dumps(keys.logged))
        if (name, case) == ("fsdp2", "orpo"):
            keep_parts(found, folder)
        if rank == 0:
            saved = {"history": json.dumps(found.history), "gradients": found.gradients, "weights": found.weights}
            torch.save(saved, folder / f"{name}-{case}.pt")
    return reductions


def keep_parts(found, folder):
    weights = [each for group in found.trainer.optimizers[0].param_groups for each in group["params"]]
    parts = [torch.zeros((), dtype=torch.long) for _ in range(2)]
    torch.distributed.all_gather(parts, torch.tensor(sum(each.to_local().numel() for each in weights)))
    counts = [sum(each.numel() for each in weights), [each.item() for each in parts]]
    (folder / "parts.json").write_text(json.dumps(counts))


def explode(folder):
    try:
        run(
            Exploding(),
            make_rows(16),
            module_class=Module,
            module=module_of(folder),
            devices=2,
            strategy=FSDP2Strategy(),
            data={"global_batch_size": 16},
        )
    except NonFiniteError as error:
        (folder / f"non-finite-{os.environ['RANK']}.txt").write_text(str(error))


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", ".*sync_dist.*")
    cases = json.loads(os.environ["CASES"])
    reductions = train_all(cases["fsdp2"], lambda case: FSDP2Strategy(**CASES[case].strategy), "fsdp2", folder)
    train_all(cases["ddp"], lambda case: DDPStrategy(), "ddp", folder)
    with fsdp1_on_cpus():
        train_all(cases["fsdp1"], lambda case: FSDP1Strategy(), "fsdp1", folder)
    if cases == FIRST_LAUNCH:
        counts = [reductions[case] for case in ("orpo", "averaged after each micro-batch")]
        (folder / "reductions.json").write_text(json.dumps(counts))
        explode(folder)
    leave_together()
