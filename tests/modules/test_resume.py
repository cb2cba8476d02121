"""Where a resumed run goes on: the optimizer step decides, Lightning's count of micro-batches follows."""

import pytest
from hypothesis import given, settings, strategies as st
from lightning import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from orpo_lightning.modules.resume import rewind_to_step

KEYS = ("ready", "started", "processed", "completed")


def checkpoint(step, processed, *, inside=False, before=0, epochs=0, at_the_end=False):
    """What Lightning saves after `processed` micro-batches of an epoch that others came before.

    Saved inside the last of them, that one is not completed yet; saved in the hooks at the end of the epoch, the epoch
    is processed and not completed.
    """

    def counts(offset):
        return {key: offset + processed - (inside and key == "completed") for key in KEYS}

    progress = {"current": counts(0), "total": counts(before), "is_last_batch": False}
    epoch_progress = {part: {"processed": epochs + at_the_end, "completed": epochs} for part in ("current", "total")}
    loops = {"fit_loop": {"epoch_loop.batch_progress": progress, "epoch_progress": epoch_progress}}
    return {"global_step": step, "loops": loops}


def rewound(saved, steps_per_epoch, accumulate):
    rewind_to_step(saved, steps_per_epoch, accumulate)
    progress = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return [[progress[part][key] for key in KEYS] for part in ("current", "total")]


def test_a_run_that_goes_on_as_it_was_is_left_alone():
    # 3 of 5 steps of the second epoch, 2 micro-batches each
    assert rewound(checkpoint(8, 6, before=10, epochs=1), 5, 2) == [[6] * 4, [16] * 4]


def test_a_checkpoint_saved_inside_a_micro_batch_keeps_it_uncompleted():
    assert rewound(checkpoint(8, 6, inside=True, before=10, epochs=1), 5, 2) == [[6, 6, 6, 5], [16, 16, 16, 15]]


def test_with_more_accumulation_the_same_steps_are_more_micro_batches():
    # 3 steps of 2 become 3 steps of 8; the epoch before stays as it was counted
    assert rewound(checkpoint(8, 6, before=10, epochs=1), 5, 8) == [[24] * 4, [34] * 4]


def test_with_less_accumulation_the_same_steps_are_fewer_micro_batches():
    assert rewound(checkpoint(8, 24, inside=True, before=40, epochs=1), 5, 2) == [[6, 6, 6, 5], [46, 46, 46, 45]]


def test_a_checkpoint_amid_an_accumulation_goes_back_to_the_last_step():
    # 3 steps of 4 are done, and 2 micro-batches of the next, whose gradients are lost
    assert rewound(checkpoint(3, 14), 5, 4) == [[12] * 4, [12] * 4]


def test_at_the_end_of_an_epoch_the_counter_stands_at_its_last_micro_batch():
    assert rewound(checkpoint(5, 10), 5, 4) == [[20] * 4, [20] * 4]


def test_in_the_hooks_at_the_end_of_an_epoch_all_of_its_steps_are_done():
    assert rewound(checkpoint(10, 10, before=10, epochs=1, at_the_end=True), 5, 4) == [[20] * 4, [30] * 4]


def test_before_an_epoch_has_begun_the_counter_stands_at_zero():
    assert rewound(checkpoint(5, 0, before=10, epochs=1), 5, 4) == [[0] * 4, [10] * 4]


def test_before_the_first_step_nothing_has_been_counted():
    assert rewound(checkpoint(0, 0), 5, 4) == [[0] * 4, [0] * 4]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.booleans(), st.data())
def test_rewinding_to_another_accumulation_and_back_changes_nothing(steps, epoch, one, other, inside, data):
    done = data.draw(st.integers(1, steps))
    saved = checkpoint(
        (epoch - 1) * steps + done, done * one, inside=inside, before=(epoch - 1) * steps * one, epochs=epoch - 1
    )
    before = rewound(saved, steps, one)
    assert before[0][0] == done * one
    there = rewound(saved, steps, other)
    assert there[0] == [done * other] * 3 + [done * other - inside]
    assert rewound(saved, steps, one) == before


class Counted(BoringModel):
    """Saves in one hook, as a callback, a signal or an exception would, and notes the steps it takes."""

    def __init__(self, path=None, save_at=None):
        super().__init__()
        self.path, self.save_at, self.steps = path, save_at, []

    def save(self, hook, batch=None):
        if (hook, self.current_epoch, batch) == self.save_at:
            self.trainer.save_checkpoint(self.path)

    def on_train_batch_start(self, batch, batch_idx):
        self.save("batch start", batch_idx)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.save("batch end", batch_idx)

    def on_train_epoch_end(self):
        self.save("epoch end")

    def on_before_optimizer_step(self, optimizer):
        self.steps.append(self.global_step)

    def on_load_checkpoint(self, checkpoint):
        rewind_to_step(checkpoint, steps_per_epoch=4, accumulate=self.trainer.accumulate_grad_batches)


def fit(module: LightningModule, accumulate, ckpt_path=None, max_epochs=2, max_steps=-1):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        limit_train_batches=4 * accumulate,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=False if ckpt_path else None)
    return trainer


# in 2 epochs of 4 steps of 2 micro-batches: where a checkpoint is saved, and the steps taken before
PLACES = {
    **{("batch start", epoch, batch): 4 * epoch + batch // 2 for epoch in (0, 1) for batch in range(8)},
    **{("batch end", epoch, batch): 4 * epoch + (batch + 1) // 2 for epoch in (0, 1) for batch in range(8)},
    **{("epoch end", epoch, None): 4 * epoch + 4 for epoch in (0, 1)},
}


# the counters are private to Lightning: this says when they change
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize(("place", "taken"), PLACES.items())
def test_wherever_a_checkpoint_was_saved_lightning_takes_the_steps_that_are_left(tmp_path, place, taken, accumulate):
    fit(Counted(tmp_path / "a.ckpt", place), accumulate=2)
    resumed = Counted()
    fit(resumed, accumulate, tmp_path / "a.ckpt")
    assert resumed.steps == list(range(taken, 8))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_run_that_was_over_can_be_made_longer(tmp_path, accumulate):
    fit(Counted(), 2, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    longer = Counted()
    fit(longer, accumulate, tmp_path / "a.ckpt", max_epochs=2)
    assert longer.steps == [4, 5, 6, 7]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("taken", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("saved", ["in the hooks", "after the run"])
def test_an_epoch_that_max_steps_cut_short_is_gone_on_with(tmp_path, saved, taken, accumulate):
    path = tmp_path / "a.ckpt"
    last_epoch = (taken - 1) // 4
    place = ("epoch end", last_epoch, None) if saved == "in the hooks" else None
    trainer = fit(Counted(path, place), accumulate=2, max_steps=taken)
    if saved == "after the run":
        trainer.save_checkpoint(path)
    resumed = Counted()
    longer = fit(resumed, accumulate, path)
    assert resumed.steps == list(range(taken, 8))
    assert longer.current_epoch == 2


def test_a_run_that_was_over_keeps_the_total_of_its_micro_batches():
    saved = checkpoint(5, 10, epochs=1)
    saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = True
    assert rewound(saved, 5, 2) == [[0] * 4, [10] * 4]


@pytest.mark.parametrize("over", [False, True])
def test_an_epoch_that_was_cut_short_counts_as_begun_and_not_as_done(over):
    # 2 of 5 steps of the second epoch; saved in the hooks at its end, or after the run
    saved = checkpoint(7, 4, before=10, epochs=1 + over, at_the_end=not over)
    assert rewound(saved, 5, 2) == [[4] * 4, [14] * 4]
    progress = saved["loops"]["fit_loop"]["epoch_progress"]
    assert progress == {part: {"processed": 1, "completed": 1} for part in ("current", "total")}
