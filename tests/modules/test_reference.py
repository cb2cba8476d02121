"""P6: a frozen copy, the policy without its adapter and stored log-probabilities give the same numbers."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers import RowsData, Run, leave_together, run_on_two_ranks, slow
from lightning import Trainer
from reference_runs import FULL, LORA, OBJECTIVES, TRAIN, VALIDATION, assert_same, interrupted, train

from orpo_lightning import (
    DPO,
    ORPO,
    LoraConfig,
    Objective,
    ObjectiveOutput,
    PolicyConfig,
    PreferenceModule,
    ReferenceConfig,
)
from orpo_lightning.models import reference_cache
from orpo_lightning.models.reference import AdapterOff, FrozenReference
from orpo_lightning.models.reference_cache import CachedReference
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.testing import make_rows


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_modes_give_the_same_losses_metrics_gradients_and_weights(base, name):
    make = OBJECTIVES[name]
    copy = train(base, make(), "copy")
    assert isinstance(copy.module.reference, FrozenReference)
    cached = train(base, make(), "cached")
    assert isinstance(cached.module.reference, CachedReference)
    assert_same(cached, copy, 1e-10)
    # the policy has left its reference, so that these are not all zeros
    assert abs(copy.history[-1][1]["val/rewards/margins"]) > 1e-3

    copy = train(base, make(), "copy", LORA)
    adapter = train(base, make(), "adapter", LORA)
    assert isinstance(adapter.module.reference, AdapterOff)
    assert_same(adapter, copy, 1e-10)
    assert_same(train(base, make(), "cached", LORA), copy, 1e-10)
    assert abs(copy.history[-1][1]["val/rewards/margins"]) > 1e-3


@pytest.mark.parametrize("shape", ["opt", slow("llama")])
def test_in_fp32_losses_and_gradient_norms_agree_to_1e_5(base, tmp_path, shape):
    tiny_model(shape).save_pretrained(tmp_path / shape)
    runs = [train(str(tmp_path / shape), DPO(), mode, LORA, dtype="float32") for mode in ("copy", "adapter", "cached")]
    for found in runs[1:]:
        for (_, values), (_, expected) in zip(found.history, runs[0].history, strict=True):
            for key in values.keys() & {"train/loss", "train/grad_norm", "val/loss"}:
                assert values[key] == pytest.approx(expected[key], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", slow("bf16-true"), slow("64-true")])
def test_the_store_is_right_in_every_precision(base, precision):
    options = {"dtype": "float32", "precision": precision, "max_epochs": 1}
    copy, cached = (train(base, DPO(), mode, **options) for mode in ("copy", "cached"))
    for (_, values), (_, expected) in zip(cached.history, copy.history, strict=True):
        for key in values.keys() & {"train/loss", "val/loss"}:
            assert values[key] == pytest.approx(expected[key], rel=1e-9 if precision == "64-true" else 3e-2)
    train(base, DPO(), "cached", **options)  # what was stored stands up to a check


class PromptRatio(Objective):
    """The log-ratio of prompt and chosen response, per token."""

    needs_reference = True
    needs_prompt_logps = True

    def __call__(self, policy, reference=None):
        ratio = (policy.chosen_full - reference.chosen_full) / policy.chosen_full_tokens
        return ObjectiveOutput((ratio + 1.0) ** 2)


@pytest.mark.slow
def test_prompts_are_stored_when_an_objective_asks_for_them(base, work):
    copy = train(base, PromptRatio(), "copy")
    train(base, DPO())
    first = work.rows
    assert_same(train(base, PromptRatio()), copy, 1e-10)  # the prompts are added to the store of DPO
    assert work.rows == 2 * first
    train(base, PromptRatio())
    assert work.rows == 2 * first + 4


def test_what_auto_means(base):
    def reference(lora=FULL, name=None):
        policy = PolicyConfig(base, dtype="float64", lora=lora)
        module = PreferenceModule(DPO(), policy=policy, reference=ReferenceConfig(name))
        module.configure_model()
        return type(module.reference)

    assert reference() is FrozenReference
    assert reference(LORA) is AdapterOff
    assert reference(LORA, base) is FrozenReference


@pytest.mark.parametrize(
    ("lora", "name", "reason"),
    [
        (FULL, None, r"the policy has no adapter to switch off \(model.policy.lora.r = 0\)"),
        (LoraConfig(adapter="runs/a"), None, r"training starts from the adapter in 'runs/a'"),
        (LORA, "tiny", r"it names a model of its own, model.reference.name_or_path = 'tiny'"),
    ],
)
def test_switching_off_an_adapter_that_is_not_the_difference_is_refused(work, lora, name, reason):
    reference = ReferenceConfig(name, mode="adapter")
    with pytest.raises(ValueError, match=rf"mode = 'adapter', but {reason}.*accepted: auto, copy, cached"):
        PreferenceModule(DPO(), policy=PolicyConfig(lora=lora), reference=reference)
    assert not work.loads
    PreferenceModule(ORPO(), policy=PolicyConfig(lora=lora), reference=reference)  # needs none


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"model.reference.mode = 'cache'; accepted: auto, copy, adapter, cached"):
        ReferenceConfig(mode="cache")


@pytest.mark.slow
def test_every_mode_has_the_same_fingerprint_so_that_a_run_goes_on_in_another(base, tmp_path):
    expected = train(base, DPO(), "copy", LORA)
    checkpoint = interrupted(base, tmp_path, mode="copy", lora=LORA)
    for mode in ("adapter", "cached"):
        resumed = train(base, DPO(), mode, LORA, ckpt_path=checkpoint)
        assert resumed.module.reference.fingerprint == expected.module.reference.fingerprint
        torch.testing.assert_close(resumed.weights, expected.weights, rtol=0, atol=1e-10)


def test_a_run_resumes_without_computing_anything(base, tmp_path, work):
    straight = train(base, DPO())
    checkpoint = interrupted(base, tmp_path)
    work.forwards.clear()
    work.loads.clear()
    resumed = train(base, DPO(), ckpt_path=checkpoint)
    assert torch.equal(resumed.weights, straight.weights)
    assert work.forwards == []
    assert work.loads == {"base": 1}


@pytest.mark.parametrize(("lora", "loads"), [(FULL, 2), (LORA, 1)])
def test_a_resumed_run_without_a_store_takes_the_starting_weights_and_not_its_own(base, tmp_path, work, lora, loads):
    straight = train(base, DPO(), lora=lora)
    checkpoint = interrupted(base, tmp_path, lora=lora)
    for file in (tmp_path / "cache").rglob("*.logps"):
        file.unlink()
    work.forwards.clear()
    work.loads.clear()
    resumed = train(base, DPO(), lora=lora, ckpt_path=checkpoint)
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=1e-10)
    assert work.rows == 27
    assert work.loads == {"base": loads}


@pytest.mark.parametrize("mode", [slow("copy"), slow("adapter"), "cached"])
def test_validation_of_a_trained_checkpoint_is_against_the_starting_weights(base, tmp_path, mode):
    checkpoint = interrupted(base, tmp_path, lora=LORA)
    key = "val/rewards/margins"
    straight = train(base, DPO(), "copy", LORA, val_check_interval=1)
    expected = [logged[key] for _, logged in straight.history if key in logged][3]
    for file in (tmp_path / "cache").rglob("*.logps"):
        file.unlink()
    module = PreferenceModule(
        DPO(), policy=PolicyConfig(base, dtype="float64", lora=LORA), reference=ReferenceConfig(mode=mode)
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    data = RowsData(TRAIN, VALIDATION, global_batch_size=8)
    (found,) = trainer.validate(module, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    assert found[key] == pytest.approx(expected, rel=1e-10)
    assert abs(expected) > 1e-3


@pytest.mark.slow
def test_a_second_fit_of_the_same_module_keeps_its_reference(base, work):
    found = train(base, DPO(), max_epochs=1)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1
    )
    work.loads.clear()
    work.forwards.clear()
    found.module._check_reference = lambda *args: None  # a policy that was trained before may differ
    trainer.fit(found.module, RowsData([*TRAIN, *make_rows(2, seed=8)], global_batch_size=8))
    # the policy has moved: the two new rows are the starting weights'
    assert work.loads == {"base": 1}
    assert work.forwards == [2]


CASES = {
    f"{objective}-{mode}-{'lora' if lora is LORA else 'full'}": (objective, mode, lora)
    for objective in OBJECTIVES
    for mode, lora in (("copy", FULL), ("cached", FULL), ("copy", LORA), ("adapter", LORA), ("cached", LORA))
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    tiny_model("opt", torch.float64).save_pretrained(folder / "base")
    run_on_two_ranks(__file__, folder, ORPO_LIGHTNING_CACHE=str(folder / "cache"))
    return folder


def read(folder, name, rank):
    return json.loads((folder / f"{name}-{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(two_processes, base, name):
    objective, mode, lora = CASES[name]
    expected = train(base, OBJECTIVES[objective](), mode, lora)
    saved = torch.load(two_processes / f"{name}.pt")
    found = Run(json.loads(saved["history"]), saved["gradients"], saved["weights"], None, None)
    assert_same(found, expected, 1e-10)


@pytest.mark.slow
def test_each_process_computes_its_share_in_equally_many_forward_passes(two_processes):
    first, second = (read(two_processes, "dpo-cached-full", rank) for rank in (0, 1))
    assert len(first) == len(second) > 2
    # 27 rows between them, and at most one repeated to keep step
    assert 27 <= sum(first) + sum(second) <= 28
    assert abs(sum(first) - sum(second)) < 14
    # the store is complete for what comes next: the check only, on both
    for name in ("ipo-cached-full", "dpo-cached-lora", "ipo-cached-lora"):
        assert [read(two_processes, name, rank) for rank in (0, 1)] == [[4], [4]]


@pytest.mark.slow
def test_without_a_shared_file_system_each_has_all_values_and_a_store_of_its_own(two_processes):
    once, again = ([read(two_processes, f"{name}", rank) for rank in (0, 1)] for name in ("apart", "apart-again"))
    assert 27 <= sum(map(sum, once)) <= 28
    assert again == [[4], [4]]
    apart, shared = (torch.load(two_processes / f"{name}.pt") for name in ("apart", "dpo-cached-full"))
    assert torch.equal(apart["weights"], shared["weights"])


@pytest.mark.slow
def test_processes_that_see_different_stores_keep_step(two_processes):
    # the second lost a file of its store, and the first computes half of what was in it
    first, second = (read(two_processes, "apart-uneven", rank) for rank in (0, 1))
    assert first[0] == second[0] == 4  # the check
    assert len(first) == len(second) > 1
    assert all(sum(forwards[1:]) < 27 for forwards in (first, second))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 40])
def test_every_rank_has_equally_many_batches_and_no_row_is_left_out(monkeypatch, ranks):
    monkeypatch.setattr(reference_cache, "FILL_TOKENS", 60)
    places = reference_cache._micro_batches({i: row.num_tokens for i, row in enumerate(TRAIN)}, ranks)
    batches = [[TRAIN[i] for i in batch] for batch in places]
    assert len(batches) % ranks == 0
    assert all(batches)
    assert {row.row_id for batch in batches for row in batch} == {row.row_id for row in TRAIN}
    assert sum(map(len, batches)) < len(TRAIN) + ranks
    longest = max(row.num_tokens for row in TRAIN)
    assert all(sum(row.num_tokens for row in batch) <= max(60, longest) for batch in batches)


def main(folder: Path) -> None:
    from lightning.pytorch.strategies import DDPStrategy

    rank = os.environ["RANK"]
    reference_cache.FILL_TOKENS = 60
    forwards, score = [], reference_cache._score

    def counted(scorer, rows, run):
        forwards.append(len(rows))
        return score(scorer, rows, run)

    reference_cache._score = counted
    apart = {name: ("dpo", "cached", FULL) for name in ("apart", "apart-again", "apart-uneven")}
    for name, (objective, mode, lora) in (CASES | apart).items():
        if name == "apart":
            os.environ["ORPO_LIGHTNING_CACHE"] = str(folder / f"cache-{rank}")
        if name == "apart-uneven" and rank == "1":
            max((folder / "cache-1").rglob("*.logps"), key=lambda path: path.stat().st_size).unlink()
        forwards.clear()
        found = train(
            str(folder / "base"),
            OBJECTIVES[objective](),
            mode,
            lora,
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo"),
        )
        (folder / f"{name}-{rank}.json").write_text(json.dumps(forwards))
        if rank == "0":
            saved = {"history": json.dumps(found.history), "gradients": found.gradients, "weights": found.weights}
            torch.save(saved, folder / f"{name}.pt")
    leave_together()
