"""Stored reference log-probabilities: computed once, by whoever is first, and never believed blindly."""

import dataclasses
import gc
import json
import subprocess
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import RowsData, run
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from reference_runs import FULL, LORA, TRAIN, VALIDATION, StoppedError, assert_same, interrupted, train
from torch.utils.data import ConcatDataset

from orpo_lightning import (
    DPO,
    IPO,
    LoraConfig,
    PolicyConfig,
    PreferenceModule,
    ReferenceConfig,
)
from orpo_lightning.models import reference_cache
from orpo_lightning.models.adapters import add_adapter
from orpo_lightning.models.loading import load_causal_lm
from orpo_lightning.models.reference import FrozenReference
from orpo_lightning.models.reference_cache import CachedReference, ReferenceRun
from orpo_lightning.models.reference_store import ReferenceStore
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.records import ResponseLogps
from orpo_lightning.testing import make_rows


def test_the_store_is_filled_once_for_all_objectives_strengths_and_adapters(base, work):
    train(base, DPO(beta=0.1))
    assert work.rows == len(TRAIN) + len(VALIDATION)
    for objective, lora in ((DPO(beta=0.5), FULL), (IPO(), FULL), (DPO(), LORA), (DPO(), LoraConfig(r=2))):
        work.forwards.clear()
        train(base, objective, lora=lora, max_steps=1)
        assert work.forwards == [4]  # the check of a few rows
    assert work.loads == {"base": 5}  # the policies; never a second model


def test_row_order_and_limits_do_not_matter_and_new_rows_only_are_computed(base, work):
    train(base, DPO(), max_steps=1)
    for rows in (TRAIN[::-1], TRAIN[5:8], [dataclasses.replace(row, row_id=f"other:{row.row_id}") for row in TRAIN]):
        work.forwards.clear()
        train(base, DPO(), rows=rows, max_steps=1)
        assert work.rows == 4
    work.forwards.clear()
    train(base, DPO(), rows=[*TRAIN, *make_rows(3, seed=77)], max_steps=1)
    assert work.rows == 4 + 3
    # the same responses to another prompt are others
    work.forwards.clear()
    changed = dataclasses.replace(TRAIN[0], prompt=(*TRAIN[0].prompt, 5))
    train(base, DPO(), rows=[changed, *TRAIN[1:]], max_steps=1)
    assert work.rows == 4 + 1


def test_rows_that_stand_twice_are_computed_once(base, work):
    train(base, DPO(), rows=[*TRAIN, *TRAIN], validation=TRAIN[:4], max_steps=1)
    assert work.rows == len(TRAIN)


def test_other_weights_another_precision_and_another_arithmetic_have_stores_of_their_own(base, tmp_path, work):
    train(base, DPO(), max_steps=1, dtype="float32")
    folders = set((tmp_path / "cache" / "reference").iterdir())
    assert len(folders) == 1
    train(base, DPO(), max_steps=1, dtype="float32", precision="bf16-mixed")
    train(base, DPO(), max_steps=1, dtype="float64")
    other = tiny_model("opt", torch.float64)
    other.config.activation_function = "gelu"  # the same weights
    other.save_pretrained(tmp_path / "other")
    train(str(tmp_path / "other"), DPO(), max_steps=1)
    assert len(set((tmp_path / "cache" / "reference").iterdir())) == 4
    assert work.forwards == [27] * 4


def test_no_second_model_exists_at_any_time(base, work):
    policy = sum(p.numel() for p in load_causal_lm(PolicyConfig(base)).parameters())
    seen = []

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(sum(p.numel() for p in pl_module.parameters()))

    copy = train(base, DPO(), "copy", callbacks=[Count()], max_steps=1)
    assert seen.pop() == 2 * policy
    assert work.loads.total() == 2
    work.loads.clear()
    train(base, DPO(), callbacks=[Count()], max_steps=1)
    assert seen.pop() == policy
    assert work.loads.total() == 1
    adapted = train(base, DPO(), "adapter", LORA, callbacks=[Count()], max_steps=1)
    assert policy < seen.pop() < 1.3 * policy
    assert not [name for name, _ in adapted.module.named_modules() if name.startswith("reference")]
    assert [name for name, _ in copy.module.named_modules() if name.startswith("reference")]


def references():
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is FrozenReference]


@pytest.mark.slow
def test_another_reference_is_loaded_for_the_fill_only(base, tmp_path, work):
    tiny_model("opt", torch.float64, seed=4).save_pretrained(tmp_path / "other")
    other = str(tmp_path / "other")
    copy = train(base, DPO(), "copy", name=other)
    work.loads.clear()
    del copy.module.reference
    before, alive = references(), []  # those that other tests have left

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            alive.append([each for each in references() if not any(each is other for other in before)])

    cached = train(base, DPO(), name=other, callbacks=[Count()])
    assert alive == [[]] * 6
    assert_same(cached, copy, 1e-10)
    assert copy.history[0][1]["train/loss"] != pytest.approx(0.6931, abs=1e-3)
    # once to know it, once to fill; then never again
    assert work.loads == {"base": 1, "other": 2}
    assert work.rows == 27
    work.loads.clear()
    work.forwards.clear()
    assert_same(train(base, DPO(), name=other), copy, 1e-10)
    assert work.loads == {"base": 1}
    assert work.forwards == []
    tiny_model("opt", torch.float64, seed=6).save_pretrained(tmp_path / "other")
    changed = train(base, DPO(), name=other)
    assert changed.history[0][1]["train/loss"] != pytest.approx(copy.history[0][1]["train/loss"])


@pytest.mark.slow
def test_a_policy_that_starts_from_an_adapter_fills_the_store_with_it(base, tmp_path, work):
    net = add_adapter(tiny_model("opt", torch.float64), LORA)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1) if parameter.requires_grad else None
    net.save_pretrained(tmp_path / "adapter")
    lora = LoraConfig(adapter=str(tmp_path / "adapter"))
    plain, copy = train(base, DPO(), "copy"), train(base, DPO(), "copy", lora)
    assert_same(train(base, DPO(), "cached", lora), copy, 1e-10)
    logps = "val/logps/chosen"
    assert copy.history[-1][1][logps] != pytest.approx(plain.history[-1][1][logps])
    assert copy.module.reference.fingerprint != plain.module.reference.fingerprint


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(reference_cache, "FILL_TOKENS", 60)


@pytest.mark.parametrize("save_seconds", [0.0, 60.0])
def test_an_interrupted_fill_goes_on_where_it_was(base, work, monkeypatch, small_batches, save_seconds):
    monkeypatch.setattr(reference_cache, "SAVE_SECONDS", save_seconds)
    whole, score, left = train(base, DPO(), "copy"), reference_cache._score, [3]

    def stopped(*args):
        if not left[0]:
            raise StoppedError
        left[0] -= 1
        return score(*args)

    monkeypatch.setattr(reference_cache, "_score", stopped)
    with pytest.raises(StoppedError):
        train(base, DPO())
    done = work.rows
    assert 3 <= done < 27
    assert len(work.forwards) == 3
    left[0] = 1000
    found = train(base, DPO())
    assert work.rows == 27 + 4  # and the check of what was there
    assert_same(found, whole, 1e-10)


@pytest.mark.slow
def test_a_fill_that_is_killed_keeps_what_was_written(base, tmp_path):
    script = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}, os.getcwd()]
from orpo_lightning.models import reference_cache
from reference_runs import DPO, train
reference_cache.FILL_TOKENS, reference_cache.SAVE_SECONDS = 60, 0.0
score, left = reference_cache._score, [5]
def killed(*args):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), 9)
    return score(*args)
reference_cache._score = killed
train({base!r}, DPO())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == -9, result.stderr
    (store,) = (tmp_path / "cache" / "reference").iterdir()
    assert len(list(store.glob("*.logps"))) == 5


def test_a_damaged_store_is_said_and_what_is_missing_is_computed_again(base, tmp_path, work):
    whole = train(base, DPO())
    (file,) = (tmp_path / "cache" / "reference").glob("*/*.logps")
    file.write_bytes(file.read_bytes()[:-100])
    work.forwards.clear()
    with pytest.warns(UserWarning, match=r"is damaged; it is removed"):
        assert_same(train(base, DPO()), whole, 1e-10)
    assert work.rows == 27


def poison(tmp_path, by):
    (store,) = (tmp_path / "cache" / "reference").iterdir()
    (file,) = store.glob("*.logps")
    keys = {file.read_bytes()[i : i + 16] for i in range(0, file.stat().st_size, 24)}
    values = ReferenceStore(store).read(keys)
    file.unlink()
    ReferenceStore(store).write({key: value * by for key, value in values.items()})
    return store


@pytest.mark.parametrize("by", [1.05, float("nan")])
def test_stored_values_that_are_not_the_references_stop_the_run(base, tmp_path, by):
    train(base, DPO(), max_steps=1)
    store = poison(tmp_path, by)
    with pytest.raises(ValueError, match=rf"not those of the reference, on the rows made:1, .*delete {store}"):
        train(base, DPO(), max_steps=1)


def flip_a_bit(tmp_path):
    (file,) = (tmp_path / "cache" / "reference").glob("*/*.logps")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the exponent of a value
    file.write_bytes(content)


@pytest.mark.parametrize(("lora", "checked"), [(FULL, []), (LORA, [4])])
def test_a_resumed_run_checks_what_is_stored_only_where_its_reference_is_at_hand(base, tmp_path, work, lora, checked):
    checkpoint = interrupted(base, tmp_path, lora=lora, mode="cached")
    work.forwards.clear()
    train(base, DPO(), lora=lora, ckpt_path=checkpoint)
    assert work.forwards == checked


@pytest.mark.parametrize("reference", ["resumed", "named"])
def test_an_altered_value_is_noticed_where_no_model_could_check_it(base, tmp_path, work, reference):
    options = {"name": str(tmp_path / "other")} if reference == "named" else {}
    tiny_model("opt", torch.float64, seed=4).save_pretrained(tmp_path / "other")
    whole = train(base, DPO(), **options)
    if reference == "resumed":
        options["ckpt_path"] = interrupted(base, tmp_path)
    flip_a_bit(tmp_path)
    work.forwards.clear()
    with pytest.warns(UserWarning, match=r"is damaged; it is removed"):
        found = train(base, DPO(), **options)
    assert work.rows == 27
    assert_same(found, whole, 1e-10) if reference == "named" else None
    torch.testing.assert_close(found.weights, whole.weights, rtol=0, atol=1e-10)


class Disturbed(PreferenceModule):
    def configure_model(self):
        super().configure_model()
        with torch.no_grad():
            next(self.policy.parameters()).mul_(1.5)


@pytest.mark.parametrize(("mode", "lora"), [("copy", FULL), ("cached", FULL), ("cached", LORA)])
def test_a_policy_that_does_not_start_as_its_reference_is_refused_and_never_stored(base, tmp_path, mode, lora):
    module = {
        "policy": PolicyConfig(base, dtype="float64", lora=lora),
        "reference": ReferenceConfig(mode=mode),
    }
    with pytest.raises(ValueError, match=r"must equal its reference|changed after they were loaded.*mode = copy"):
        run(DPO(), module_class=Disturbed, module=module)
    assert not list((tmp_path / "cache").rglob("*.logps"))
    if mode == "cached":
        train(base, DPO(), max_steps=1)
        with pytest.raises(ValueError, match=r"the stored reference log-probabilities are not those"):
            run(DPO(), module_class=Disturbed, module=module)


def test_a_reference_that_is_not_finite_is_named_and_not_stored(base, tmp_path):
    net = tiny_model("opt", torch.float64)
    with torch.no_grad():
        net.get_decoder().embed_positions.weight[2 + 20] = torch.nan  # what is longer than 20 tokens
    net.save_pretrained(tmp_path / "nan")
    long = {
        row.row_id for row in TRAIN if len(row.prompt) + max(len(response.ids) for response in row.responses) - 1 > 20
    }
    assert 0 < len(long) < len(TRAIN)
    with pytest.raises(ValueError, match=r"the reference's log-probabilities are not finite on the rows ") as error:
        train(base, DPO(), name=str(tmp_path / "nan"), validation=None)
    assert set(str(error.value).split("rows ")[1].split(", ")) == long
    (file,) = (tmp_path / "cache").rglob("*.logps")
    assert 24 < file.stat().st_size < 24 * 2 * len(TRAIN)  # the others


def test_rows_that_the_data_module_did_not_show_are_named(base):
    class Hiding(RowsData):
        @property
        def rows(self):
            return {"train": self._rows["train"][:3]}

    module = PreferenceModule(
        DPO(), policy=PolicyConfig(base, dtype="float64"), reference=ReferenceConfig(mode="cached")
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match=r"no reference log-probabilities.*made:.*in its property `rows`"):
        trainer.fit(module, Hiding(TRAIN, global_batch_size=22))


def test_filling_and_reading_a_store_never_hold_the_rows(tmp_path):
    made = []

    class Lazy:
        """Large rows that are made when they are asked for."""

        def __len__(self):
            return 300

        def __getitem__(self, place):
            if not 0 <= place < len(self):
                raise IndexError(place)
            row = make_rows(1, vocabulary=50_000, longest=1000, seed=place)[0]
            made.append(weakref.ref(row))
            return row

    def scorer(batch, prompt_logps=False):
        assert sum(row() is not None for row in made) < 60  # those of a batch
        return ResponseLogps(
            logps=-batch.tokens.double(),
            tokens=batch.tokens,
            group=batch.group,
            role=batch.role,
            label=batch.label,
            prompt_logps=None,
            prompt_tokens=batch.prompt_tokens,
        )

    store = ReferenceStore(tmp_path / "store")
    said = []
    for _ in ("fill", "read"):
        reference = CachedReference(
            "weights", lambda precision: store, lambda: torch.float64, scorer, False, lambda: True, tiny_model
        )
        run = ReferenceRun(
            rows=lambda: ConcatDataset([Lazy()]),
            prompt_logps=False,
            device=torch.device("cpu"),
            precision="64",
            autocast=nullcontext,
            place=lambda model: model,
            progress=False,
            say=said.append,
        )
        reference.prepare(run)
        assert len(reference._values) == 600
        assert sum(row() is not None for row in made) == 0
    place = tmp_path / "store"
    assert said == [
        f"reference log-probabilities: 0 of 600 are in {place}, 600 are computed now",
        f"reference log-probabilities: 600 of 600 are in {place}",
    ]


@pytest.mark.slow
def test_an_adapter_that_is_gone_on_with_has_a_store_for_each_of_its_strengths(base, tmp_path, work):
    train(base, DPO(), lora=LORA).module.policy.net.save_pretrained(tmp_path / "adapter")
    lora = LoraConfig(adapter=str(tmp_path / "adapter"))
    train(base, DPO(), lora=lora)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 4}))
    # not the values of the other strength, on which the run would stop
    assert_same(train(base, DPO(), lora=lora), train(base, DPO(), "copy", lora=lora), 1e-10)
