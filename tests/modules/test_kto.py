"""KTO in training: on single responses and on pairs, with the reference point of the whole global batch."""

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
import torch
from helpers import Recorder, RowsData, TinyModule, run
from lightning import Trainer

from orpo_lightning import DPO, KTO, ORPO, SFT, OptimizerConfig, PreferenceDataModule, PreferenceModule, ScheduleConfig
from orpo_lightning.data.mismatch import with_mismatched
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.models.tokenizer import load_tokenizer, render_prompt
from orpo_lightning.objectives.unpaired import UnpairedObjective
from orpo_lightning.records import Message, ObjectiveOutput, Role, TokenizedResponse, TokenizedRow
from orpo_lightning.testing import make_rows, make_unpaired_rows

DEMO = Path(__file__).parents[3] / "shared" / "data" / "kto" / "kto_en_demo.json"
OWN = {
    "loss", "kl", "nll_response", "rewards/chosen", "rewards/rejected", "rewards/margins",
    "logps/chosen", "logps/rejected", "logps_mean/chosen", "logps_mean/rejected",
}  # fmt: skip
OF_PAIRS = {"pref/accuracies", "pref/accuracies_sum", "pref/margins"}
KINDS = {"unpaired": (make_unpaired_rows, OWN), "pairs": (make_rows, OWN | OF_PAIRS)}


def logged(found, stage):
    return [
        {key.removeprefix(f"{stage}/"): value for key, value in values.items() if key.startswith(stage)}
        for _, values in found.history
        if any(key.startswith(stage) for key in values)
    ]


def mixed_rows():
    rows = [*make_rows(6), *make_unpaired_rows(8, seed=3)]
    return [dataclasses.replace(row, row_id=f"mixed:{i}") for i, row in enumerate(rows)]


def hand_scored(row, response, seed):
    net = tiny_model("opt", torch.float64, seed=seed)
    ids = torch.tensor([row.prompt + response.ids])
    with torch.no_grad():
        logps = net(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    return logps[len(row.prompt) - 1 :].sum().item()


def by_hand(rows, beta):
    """Loss and z of a batch of rows that have their mismatched responses, from plain logits."""
    ratios = [
        (each.role, each.label, row.weight, hand_scored(row, each, 0) - hand_scored(row, each, 1))
        for row in rows
        for each in row.responses
    ]
    shifted = [(weight, h) for role, _, weight, h in ratios if role is Role.MISMATCHED]
    z = max(0.0, sum(w * h for w, h in shifted) / sum(w for w, _ in shifted))
    losses, weights = [], []
    for role, label, weight, h in ratios:
        if role is not Role.MISMATCHED:
            gain = beta * (h - z) * (1 if role is Role.CHOSEN or label == 1.0 else -1)
            losses.append(weight / (1 + math.exp(gain)))
            weights.append(weight)
    return sum(losses) / sum(weights), z


# what is computed


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_is_the_formula_on_plain_logits(kind):
    make, _ = KINDS[kind]
    rows = [dataclasses.replace(row, weight=0.5 + i / 4) for i, row in enumerate(make(8, seed=6))]
    found = run(KTO(beta=0.3), rows, max_steps=1, data={"shuffle": False})
    loss, z = by_hand(with_mismatched(rows, "train"), beta=0.3)
    (values,) = logged(found, "train")
    assert values["loss"] == pytest.approx(loss, rel=1e-10)
    assert values["kl"] == pytest.approx(z, rel=1e-10)


def test_the_reference_point_of_these_rows_is_above_zero_somewhere():
    # or the tests of it would be of 0 only
    points = [by_hand(with_mismatched(make_unpaired_rows(8, seed=seed), "train"), 0.3)[1] for seed in range(6)]
    assert min(points) == 0
    assert max(points) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_padded(kind):
    make, _ = KINDS[kind]
    runs = [
        run(KTO(beta=0.5), make(19), make(7, seed=9), module={"layout": layout}, max_epochs=2)
        for layout in ("packed", "padded")
    ]
    packed, padded = runs
    for (_, found), (_, expected) in zip(packed.history, padded.history, strict=True):
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    for found, expected in zip(packed.gradients, padded.gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
    torch.testing.assert_close(packed.weights, padded.weights, rtol=0, atol=1e-10)


def test_a_row_of_weight_0_changes_nothing_but_whose_response_is_mismatched():
    rows = make_unpaired_rows(5, seed=6)
    # the last row; its own mismatched response is that of the first, as that of the fourth would be without it
    ignored = dataclasses.replace(rows[4], weight=0.0, responses=rows[0].responses)
    options = {"max_steps": 1, "data": {"shuffle": False, "global_batch_size": 5}}
    with_it, without = run(KTO(), [*rows[:4], ignored], **options), run(KTO(), rows[:4], **options)
    assert logged(with_it, "train")[0] == pytest.approx(logged(without, "train")[0], rel=1e-10)


# training


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls(kind):
    make, _ = KINDS[kind]
    module = {
        "optimizer": OptimizerConfig(lr=3e-3, weight_decay=0.0),
        "schedule": ScheduleConfig("constant", warmup=0),
    }
    found = run(KTO(), make(16), max_epochs=8, module=module)
    values = logged(found, "train")
    first, last = ([each["loss"] for each in part] for part in (values[:2], values[-2:]))
    assert sum(last) < 0.8 * sum(first)
    assert values[-1]["rewards/margins"] > values[0]["rewards/margins"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_validation_log_the_same_finite_measures_at_every_step(kind):
    make, expected = KINDS[kind]
    found = run(KTO(), make(19), make(11, seed=9))
    train, val = logged(found, "train"), logged(found, "val")
    assert len(train) == 6
    assert len(val) == 2
    assert all(values.keys() == expected | {"grad_norm", "learning_rate"} for values in train)
    assert all(values.keys() == expected for values in val)
    assert all(math.isfinite(value) for values in (*train, *val) for value in values.values())


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_batch_of_one_kind_keeps_the_names(label):
    rows = sorted(make_unpaired_rows(8), key=lambda row: row.responses[0].label == label)
    found = run(KTO(), rows, max_epochs=1, data={"global_batch_size": 4, "shuffle": False})
    mixed, one_kind = logged(found, "train")
    assert mixed.keys() == one_kind.keys()
    assert all(math.isfinite(value) for value in one_kind.values())
    assert one_kind["rewards/rejected" if label else "rewards/chosen"] == 0
    assert one_kind["rewards/margins"] == 0


def test_pairs_and_unpaired_rows_train_together():
    rows = mixed_rows()
    found = run(KTO(), rows, rows, max_epochs=1, data={"global_batch_size": 5, "shuffle": False})
    train, (val,) = logged(found, "train"), logged(found, "val")
    assert len(train) == 3
    # the last batch holds no pair
    assert all(values.keys() == OWN | OF_PAIRS | {"grad_norm", "learning_rate"} for values in train)
    assert val.keys() == OWN | OF_PAIRS
    alone = logged(run(KTO(), rows, rows[:6], max_epochs=1, data={"global_batch_size": 5, "shuffle": False}), "val")
    assert {key: val[key] for key in OF_PAIRS} == pytest.approx({key: alone[0][key] for key in OF_PAIRS}, rel=1e-10)


def test_a_validation_set_that_does_not_divide_is_measured_as_its_micro_batches():
    rows, validation = make_unpaired_rows(8), make_unpaired_rows(7, seed=9)
    still = {"optimizer": OptimizerConfig(lr=0.0, algorithm="torch.optim.SGD")}
    options = {"max_epochs": 1, "module": still, "data": {"global_batch_size": 4}}
    found = run(KTO(beta=0.3), rows, validation, **options)
    plan = found.trainer.val_dataloaders[0].dataset
    given = {row.row_id: row for row in with_mismatched(validation, "validation")}
    batches = [[given[row_id] for row_id in plan[i].row_ids] for i in range(len(plan))]
    assert sorted(map(len, batches)) == [3, 4]
    scored = [(*by_hand(batch, 0.3), len(batch)) for batch in batches]
    (values,) = logged(found, "val")
    assert values["loss"] == pytest.approx(sum(loss * count for loss, _, count in scored) / 7, rel=1e-10)
    assert values["kl"] == pytest.approx(sum(z * count for _, z, count in scored) / 7, rel=1e-10)


# mismatched responses


def mismatched_of(trainer_and_batches):
    found = {}
    for batch in trainer_and_batches:
        table = zip(
            batch.group.tolist(), batch.role.tolist(), batch.score_target.split(batch.tokens.tolist()), strict=True
        )
        for group, role, ids in table:
            if role == Role.MISMATCHED:
                found[batch.row_ids[group]] = tuple(ids.tolist())
    return found


@pytest.mark.parametrize("data", [{"shuffle": False}, {"seed": 1}, {"seed": 2}, {"global_batch_size": 3}], ids=str)
def test_a_prompt_has_the_same_mismatched_response_in_any_order_and_batch_size(data):
    rows = make_unpaired_rows(13)
    plan = run(KTO(), rows, max_steps=1, data=data).trainer.train_dataloader.dataset
    expected = {row.row_id: row.responses[-1].ids for row in with_mismatched(rows, "train")}
    for epoch in range(2):
        batches = [plan[epoch * len(plan) + i] for i in range(len(plan))]
        assert mismatched_of(batches) == expected


@pytest.mark.parametrize("objective", [ORPO, SFT, DPO])
def test_other_objectives_never_run_mismatched_responses(objective):
    seen = []

    class Watched(TinyModule):
        def _shared_step(self, batch, metrics):
            seen.append(batch)
            return super()._shared_step(batch, metrics)

    data = RowsData(make_rows(8), make_rows(3, seed=1), global_batch_size=4)
    # after a run of KTO on the same data module
    for module in (Watched(KTO()), Watched(objective())):
        seen.clear()
        trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
        trainer.fit(module, data)
        mismatched = [batch.mismatched.numel() for batch in seen]
        assert mismatched == [len(batch) if isinstance(module.objective, KTO) else 0 for batch in seen]


def test_mismatched_responses_count_towards_the_token_limit():
    rows = make_unpaired_rows(4)
    run(ORPO(), make_rows(4), max_steps=1, data={"max_tokens_per_batch": 1000})
    limit = sum(len(row.prompt) + len(row.responses[0].ids) - 1 for row in rows)
    with pytest.raises(ValueError, match="max_tokens_per_batch"):
        run(KTO(), rows, max_steps=1, data={"max_tokens_per_batch": limit})


# refusals


@pytest.fixture
def no_model(monkeypatch):
    def load(self):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(TinyModule, "configure_model", load)
    monkeypatch.setattr(PreferenceModule, "configure_model", load)


@pytest.mark.parametrize("objective", [DPO, ORPO, SFT])
@pytest.mark.parametrize("where", ["train", "validation"])
def test_unpaired_rows_are_refused_by_name_where_pairs_are_needed(no_model, objective, where):
    pairs, unpaired = make_rows(4), [dataclasses.replace(make_unpaired_rows(1)[0], row_id="file:7")]
    train, validation = ([*pairs, *unpaired], None) if where == "train" else (pairs, unpaired)
    with pytest.raises(
        ValueError, match=rf"unpaired rows \(file:7 is the first\), and {objective.__name__} takes pairs.*KTO"
    ):
        run(objective(), train, validation)


def test_a_split_global_batch_is_refused(no_model):
    with pytest.raises(ValueError, match=r"KTO couples the pairs.*accumulate_grad_batches = 1"):
        run(KTO(), accumulate_grad_batches=2)


def test_a_split_validation_is_refused_because_its_reference_points_would_be_others(no_model):
    trainer = Trainer(accelerator="cpu", accumulate_grad_batches=2, logger=False)
    with pytest.raises(ValueError, match="KTO couples the pairs"):
        trainer.validate(TinyModule(KTO()), RowsData(make_rows(2), make_rows(8)))


def test_data_of_one_prompt_are_refused_before_a_model_is_loaded(no_model, tmp_path):
    pairs = tmp_path / "one.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": "Hi", "chosen": f"{i}!", "rejected": "?"}) + "\n" for i in range(3)))
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="the train data has fewer than two different prompts"):
        trainer.fit(PreferenceModule(KTO()), PreferenceDataModule(train=str(pairs), val=None))


# objectives of a user's own


class Unlikelihood(UnpairedObjective):
    """Raise desirable and lower undesirable responses: an objective of single responses that may be split."""

    def __call__(self, policy, reference=None):
        sign = torch.where(policy.desirable, -1.0, 1.0)
        return ObjectiveOutput(torch.nn.functional.softplus(sign * policy.mean), rewards=policy.mean.detach())


def test_an_objective_of_single_responses_that_does_not_couple_them_may_be_split():
    rows, validation = mixed_rows(), make_unpaired_rows(5, seed=9)
    one = run(Unlikelihood(), rows, validation)
    split = run(Unlikelihood(), rows, validation, accumulate_grad_batches=4)
    for (_, found), (_, expected) in zip(split.history, one.history, strict=True):
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    torch.testing.assert_close(split.weights, one.weights, rtol=0, atol=1e-10)


# real data


def read_demo(count):
    """The unpaired rows of the demonstration file: conversations with a label."""
    tokenizer = load_tokenizer("tiny")
    rows = []
    for number, row in enumerate(json.loads(DEMO.read_text(encoding="utf-8"))[:count], start=1):
        *prompt, answer = [Message(turn["role"], turn["content"]) for turn in row["messages"]]
        text = tokenizer(render_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        response = tokenizer(answer.content, add_special_tokens=False)["input_ids"][:128]
        rows.append(
            TokenizedRow(
                f"{DEMO.name}:{number}",
                tuple(text[-128:]),
                (TokenizedResponse((*response, tokenizer.eos_token_id), Role.UNPAIRED, float(row["label"])),),
            )
        )
    return rows


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.is_file(), reason=f"the real unpaired rows are not at {DEMO}")
def test_a_tiny_model_learns_from_real_unpaired_rows():
    rows = read_demo(300)
    assert len(rows) == 300
    random.Random(0).shuffle(rows)
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=recorder,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = PreferenceModule(KTO(), optimizer=OptimizerConfig(lr=1e-3), schedule=ScheduleConfig("constant", warmup=0))
    trainer.fit(module, RowsData(rows[:96], rows[96:128], global_batch_size=16))
    losses = [values["train/loss"] for _, values in recorder.history if "train/loss" in values]
    assert losses[0] == pytest.approx(0.5, abs=1e-6)  # policy = reference
    assert sum(losses[-6:]) < sum(losses[:6])
    margins = [values["train/rewards/margins"] for _, values in recorder.history if "train/loss" in values]
    assert margins[0] == pytest.approx(0, abs=1e-5)
    assert min(margins[-6:]) > 0
    validations = [values for _, values in recorder.history if "val/loss" in values]
    assert [{key.removeprefix("val/") for key in values} for values in validations] == [OWN] * 3
