"""What the policy measures before its first step is logged as step 0."""

import pytest
from helpers import Recorder, run

from orpo_lightning import DPO, ORPO, OptimizerConfig
from orpo_lightning.testing import make_rows

VALIDATION = make_rows(30, seed=9)


def history(objective=None, **options):
    recorder = Recorder()
    found = run(
        objective or ORPO(),
        validation=VALIDATION,
        logger=[recorder, Recorder()],
        **{"num_sanity_val_steps": -1, "limit_val_batches": 3, **options},
    )
    return recorder.history, found


def validation_of(logged):
    return {name: value for name, value in logged.items() if name.startswith("val/")}


@pytest.mark.parametrize("objective", [ORPO, DPO])
def test_the_first_row_is_the_validation_of_the_untrained_policy(objective):
    logged, found = history(objective())
    step, before = logged[0]
    assert step == 0
    later = [validation_of(each) for _, each in logged[1:] if validation_of(each)]
    before = validation_of(before)  # the first training batch is in the same row of a file
    assert set(before) == set(later[0])
    assert before["val/pref/margins"] != later[0]["val/pref/margins"]
    # that of a run that changes nothing
    still, _ = history(objective(), module={"optimizer": OptimizerConfig(lr=0.0, algorithm="torch.optim.SGD")})
    assert validation_of(still[0][1]) == pytest.approx(before)
    assert next(validation_of(each) for _, each in still[1:] if validation_of(each)) == pytest.approx(before)
    assert found.trainer.loggers[1].history[0] == (0, before)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_sanity_check_of_less_than_all_is_not_logged(steps):
    logged, _ = history(num_sanity_val_steps=steps)
    assert not validation_of(logged[0][1])


def test_a_sanity_check_of_as_many_batches_as_there_are_is_complete():
    logged, _ = history(num_sanity_val_steps=3)
    assert validation_of(logged[0][1])


def test_training_is_the_same_with_and_without():
    with_it, without = (history(num_sanity_val_steps=steps)[1] for steps in (-1, 0))
    assert (with_it.weights == without.weights).all()
