"""val_pairs.csv beside a fit: every pair once, in the order of the data, however a validation is split."""

import dataclasses
from pathlib import Path

import pytest
from helpers import RowsData, TinyModule, leave_together, run, run_on_two_ranks
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from orpo_lightning import DPO, KTO, ORPO, SFT, OptimizerConfig
from orpo_lightning.callbacks.pair_measures import PairMeasuresFile
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.summary.pairs import PairMeasures, read_pairs, write_pairs
from orpo_lightning.testing import make_rows, make_unpaired_rows

VALIDATION = make_rows(7, seed=9)


def fit(folder, objective=None, validation=VALIDATION, callbacks=(), **options):
    """The pairs that a fit wrote, and all that it logged."""
    found = run(
        objective or ORPO(),
        validation=validation,
        callbacks=[PairMeasuresFile(), *callbacks],
        default_root_dir=folder,
        num_sanity_val_steps=-1,
        **options,
    )
    return read_pairs(folder / "val_pairs.csv"), found


def logged(found):
    values = {}
    for step, each in found.history:
        values.setdefault(step, {}).update({name: each[name] for name in each if name.startswith("val/")})
    return values


def mean(pairs, name):
    return sum(getattr(pair, name) * pair.weight for pair in pairs) / sum(pair.weight for pair in pairs)


def last_of(pairs):
    return [pair for pair in pairs if pair.step == pairs[-1].step]


def test_every_validation_has_every_pair_in_the_order_of_the_data(tmp_path):
    pairs, _ = fit(tmp_path)
    assert [(pair.step, pair.row_id) for pair in pairs] == [
        (step, row.row_id) for step in (0, 3, 6) for row in VALIDATION
    ]
    for pair, row in zip(last_of(pairs), VALIDATION, strict=True):
        assert (pair.chosen_tokens, pair.rejected_tokens) == tuple(len(each.ids) for each in row.responses)
        assert pair.chosen_mean == pytest.approx(pair.chosen / pair.chosen_tokens)
        assert pair.rejected_mean == pytest.approx(pair.rejected / pair.rejected_tokens)


@pytest.mark.parametrize("objective", [ORPO, DPO, SFT, KTO])
def test_their_means_are_the_measures_that_are_logged(tmp_path, objective):
    pairs, found = fit(tmp_path, objective())
    values = [each for each in logged(found).values() if each][-1]
    last = last_of(pairs)
    assert mean(last, "accuracy") == pytest.approx(values["val/pref/accuracies"])
    assert mean(last, "margin") == pytest.approx(values["val/pref/margins"])
    assert -sum(pair.chosen for pair in last) / sum(pair.chosen_tokens for pair in last) == pytest.approx(
        values["val/nll_response"]
    )


def test_weights_are_those_of_the_rows_and_rows_of_weight_0_are_left_out(tmp_path):
    weighted = [dataclasses.replace(row, weight=float(i)) for i, row in enumerate(VALIDATION)]
    pairs, found = fit(tmp_path, validation=weighted)
    assert [pair.row_id for pair in last_of(pairs)] == [row.row_id for row in weighted[1:]]
    values = [each for each in logged(found).values() if each][-1]
    assert mean(last_of(pairs), "margin") == pytest.approx(values["val/pref/margins"])
    assert MEASURES["nll_response"].mean(last_of(pairs)) == pytest.approx(values["val/nll_response"], rel=1e-6)


def test_a_pair_is_told_by_its_tokens_wherever_its_file_is(tmp_path):
    moved = [dataclasses.replace(row, row_id=f"./elsewhere/{row.row_id}") for row in VALIDATION]
    other = [dataclasses.replace(moved[0], prompt=(*moved[0].prompt, 1)), *moved[1:]]
    pairs, again, changed = (
        fit(tmp_path / str(i), validation=rows)[0] for i, rows in enumerate((VALIDATION, moved, other))
    )
    assert len({pair.content for pair in last_of(pairs)}) == len(VALIDATION)
    assert [pair.content for pair in pairs] == [pair.content for pair in again]
    same = [pair.content == new.content for pair, new in zip(last_of(pairs), last_of(changed), strict=True)]
    assert same == [False] + [True] * (len(VALIDATION) - 1)


@pytest.mark.parametrize(
    "options", [{"module": {"layout": "padded"}}, {"accumulate_grad_batches": 4}], ids=["padded", "accumulated"]
)
def test_the_pairs_are_the_same_however_a_validation_is_laid_out(tmp_path, options):
    expected, _ = fit(tmp_path / "whole")
    found, _ = fit(tmp_path / "other", **options)
    assert [(pair.step, pair.row_id) for pair in found] == [(pair.step, pair.row_id) for pair in expected]
    for pair, other in zip(found, expected, strict=True):
        assert (pair.chosen, pair.rejected) == pytest.approx((other.chosen, other.rejected), rel=1e-9)


def test_a_limit_takes_the_first_rows(tmp_path):
    pairs, _ = fit(tmp_path, validation=make_rows(30, seed=9), limit_val_batches=2, data={"global_batch_size": 8})
    assert [pair.row_id for pair in last_of(pairs)] == [row.row_id for row in make_rows(30, seed=9)[:16]]


def test_data_without_pairs_leaves_no_file(tmp_path):
    pairs, _ = fit(tmp_path, KTO(), make_unpaired_rows(6), rows=make_unpaired_rows(16))
    assert pairs == []
    assert not (tmp_path / "val_pairs.csv").exists()


def test_of_mixed_data_the_pairs_are_kept(tmp_path):
    mixed = [
        row
        for i, (pair, single) in enumerate(zip(make_rows(4, seed=9), make_unpaired_rows(4, seed=8), strict=True))
        for row in (pair, dataclasses.replace(single, row_id=f"single:{i}"))
    ]
    pairs, _ = fit(tmp_path, KTO(), mixed, rows=make_rows(16))
    assert [pair.row_id for pair in last_of(pairs)] == [f"made:{i}" for i in range(1, 5)]


class _TwoSets(RowsData):
    def __init__(self, rows, sets, **options):
        super().__init__(rows, **options)
        self.val = dict.fromkeys(sets, "given")
        self.given = {"train": rows, **{f"validation/{name}": each for name, each in sets.items()}}


def test_validation_sets_are_told_apart_though_their_rows_are_called_alike(tmp_path):
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        callbacks=[PairMeasuresFile()],
        num_sanity_val_steps=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    sets = {"zebra": make_rows(3, seed=1), "ant": make_rows(2, seed=2)}
    trainer.fit(TinyModule(ORPO(), optimizer=OptimizerConfig(lr=1e-3)), _TwoSets(make_rows(8), sets))
    pairs = last_of(read_pairs(tmp_path / "val_pairs.csv"))
    assert [(pair.set, pair.row_id) for pair in pairs] == [
        (name, f"made:{i}") for name, count in (("zebra", 3), ("ant", 2)) for i in range(1, count + 1)
    ]
    for name, rows in sets.items():
        counts = [pair.chosen_tokens for pair in pairs if pair.set == name]
        assert counts == [len(row.responses[0].ids) for row in rows]


def test_a_sanity_check_of_some_batches_is_no_baseline(tmp_path):
    run(
        ORPO(),
        validation=make_rows(30, seed=9),
        callbacks=[PairMeasuresFile()],
        default_root_dir=tmp_path,
        num_sanity_val_steps=2,
        data={"global_batch_size": 8},
    )
    assert {pair.step for pair in read_pairs(tmp_path / "val_pairs.csv")} == {3, 6}


class _StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def test_a_run_that_goes_on_ends_with_the_file_of_one_that_was_never_interrupted(tmp_path):
    def saver(name):
        return ModelCheckpoint(tmp_path / name, "last", every_n_train_steps=2, enable_version_counter=False)

    options = {"enable_checkpointing": True, "max_epochs": 3}
    straight, _ = fit(tmp_path / "straight", callbacks=[saver("straight")], **options)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "parts", callbacks=[saver("parts"), _StopAt(7)], **options)
    # as if the run had died after a validation that the checkpoint does not know of
    path = tmp_path / "parts" / "val_pairs.csv"
    write_pairs(path, 8, [PairMeasures(8, "", "made:1", -1.0, -2.0, -1.0, -2.0, 1, 1)])
    resumed, _ = fit(
        tmp_path / "parts", callbacks=[saver("parts")], ckpt_path=tmp_path / "parts" / "last.ckpt", **options
    )
    assert resumed == straight
    assert {pair.step for pair in resumed} == {0, 3, 6, 9}


def test_a_run_that_starts_anew_in_a_folder_forgets_what_was_there(tmp_path):
    write_pairs(tmp_path / "val_pairs.csv", 0, [PairMeasures(0, "", "other:1", -1.0, -2.0, -1.0, -2.0, 1, 1)])
    run(ORPO(), validation=VALIDATION, callbacks=[PairMeasuresFile()], default_root_dir=tmp_path)
    assert {pair.step for pair in read_pairs(tmp_path / "val_pairs.csv")} == {3, 6}


def test_to_validate_a_run_leaves_its_file_alone(tmp_path):
    _, found = fit(tmp_path)
    before = (tmp_path / "val_pairs.csv").read_bytes()
    found.trainer.validate(found.module, RowsData(make_rows(4), VALIDATION), verbose=False)
    assert (tmp_path / "val_pairs.csv").read_bytes() == before


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A fit on two ranks (DDP over gloo), with slots that only a filler can take."""
    folder = tmp_path_factory.mktemp("ddp")
    run_on_two_ranks(__file__, folder)
    return folder


@pytest.mark.slow
def test_two_ranks_write_the_pairs_of_one(two_processes, tmp_path):
    expected, _ = fit(tmp_path)
    found = read_pairs(two_processes / "val_pairs.csv")
    assert [(pair.step, pair.row_id) for pair in found] == [(pair.step, pair.row_id) for pair in expected]
    for pair, other in zip(found, expected, strict=True):
        assert (pair.chosen, pair.rejected) == pytest.approx((other.chosen, other.rejected), rel=1e-9)


def main(folder: Path) -> None:
    from lightning.pytorch.strategies import DDPStrategy

    fit(folder, devices=2, strategy=DDPStrategy(process_group_backend="gloo"), accumulate_grad_batches=2)
    leave_together()
