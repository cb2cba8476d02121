"""How far a run is: a bar that fits into 80 columns, and lines where there is no terminal."""

import io
import logging
import re
import sys

import pytest
import rich
from helpers import run
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import nn, optim, rand
from torch.utils.data import DataLoader

from orpo_lightning import ORPO
from orpo_lightning.callbacks.progress import StepProgress
from orpo_lightning.testing import make_rows


@pytest.fixture
def console(monkeypatch):
    """What the process prints to, as a pipe or as a terminal of 80 columns."""

    def make(is_terminal):
        made = Console(file=io.StringIO(), width=80, force_terminal=is_terminal, force_interactive=is_terminal)
        monkeypatch.setattr(rich, "_console", made)
        return made

    return make


def fit(**options):
    return run(
        options.pop("objective", ORPO()),
        validation=options.pop("validation", make_rows(4, seed=9)),
        callbacks=[*options.pop("callbacks", []), StepProgress()],
        enable_progress_bar=True,
        **options,
    )


def lines_of(console):
    return console.file.getvalue().splitlines()


def test_a_pipe_gets_a_line_for_each_step_of_a_short_run_and_each_validation(console):
    pipe = console(is_terminal=False)
    found = fit(num_sanity_val_steps=-1, accumulate_grad_batches=2)
    lines = lines_of(pipe)
    assert re.fullmatch(r"before training  acc \d\.\d\d  margin -?\d\.\d{3}", lines[0])
    shape = r"step \d/6  loss \d+\.\d{3}  acc \d\.\d\d  margin -?\d\.\d{3}  \d+\.\d+ s/step(  \d:\d\d:\d\d left)?"
    assert [line[:9] for line in lines if re.fullmatch(shape, line)] == [f"step {i}/6 " for i in range(1, 7)]
    assert [line[:20] for line in lines if line.startswith("validation")] == [
        "validation, step 3/6",
        "validation, step 6/6",
    ]
    assert len(lines) == 9
    losses = [f"{logged['train/loss']:.3f}" for _, logged in found.history if "train/loss" in logged]
    assert [line.split()[3] for line in lines if line.startswith("step")] == losses


@pytest.mark.slow
def test_a_long_run_prints_about_twenty_lines(console):
    pipe = console(is_terminal=False)
    fit(validation=None, max_epochs=34)  # 102 steps
    steps = [int(re.match(r"step (\d+)/102 ", line)[1]) for line in lines_of(pipe)]
    assert steps == [1, *range(5, 101, 5), 102]


class _Frames(Callback):
    """What stands in the terminal after each micro-batch."""

    def __init__(self):
        self.frames = []

    def keep(self, trainer):
        bar = trainer.progress_bar_callback._progress
        lines = Console(width=80, file=io.StringIO(), record=True)
        lines.print(bar.get_renderable())
        self.frames.append(lines.export_text().splitlines())

    def on_train_batch_end(self, trainer, *args):
        self.keep(trainer)

    def on_validation_batch_end(self, trainer, *args):
        self.keep(trainer)


def test_a_terminal_gets_a_bar_of_one_line_that_counts_optimizer_steps_and_epochs_from_1(console):
    terminal, frames = console(is_terminal=True), _Frames()
    fit(validation=None, accumulate_grad_batches=2, callbacks=[frames])
    # its callback comes after, so that a frame holds the micro-batch before
    assert all(len(frame) == 1 and len(frame[0]) <= 80 for frame in frames.frames)
    texts = [frame[0] for frame in frames.frames]
    assert [re.search(r"(\d)/6", text)[1] for text in texts] == list("001122334455")
    assert [text[:9] for text in texts] == ["epoch 1/2"] * 6 + ["epoch 2/2"] * 6
    assert re.search(r"loss \d+\.\d{3}  acc \d\.\d\d  \d+\.\d+ s/step  \d:\d\d:\d\d left$", texts[-1].rstrip())
    assert "6/6" in terminal.file.getvalue()


def test_validation_has_a_second_line_and_the_first_one_is_called_before_training(console):
    console(is_terminal=True)
    frames = _Frames()
    fit(callbacks=[frames], num_sanity_val_steps=-1)
    assert frames.frames[0][0].startswith("before training ")
    during = [frame for frame in frames.frames if len(frame) == 2]
    assert during
    assert all(frame[1].startswith("validation ") and len(frame[1]) <= 80 for frame in during)


def test_large_numbers_do_not_wrap(console):
    console(is_terminal=True)
    bar = StepProgress()._bar()
    text = "loss 1235  acc 1.00  100 s/step  9:59:59 left"
    bar.add_task("epoch 100/100", total=999999, completed=123456, text=text)
    lines = Console(width=80, file=io.StringIO(), record=True)
    lines.print(bar.get_renderable())
    bar.stop()
    (line,) = lines.export_text().splitlines()
    assert len(line) <= 80
    assert "123456/999999" in line


class _Toy(LightningModule):
    """A module of another kind, that logs what it likes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("my_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("my_score", self.layer(batch).mean())

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_another_module_is_shown_with_what_it_wants_to_show(console, is_terminal):
    made = console(is_terminal=is_terminal)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[StepProgress()],
    )
    loader = DataLoader(rand(4, 2))
    trainer.fit(_Toy(), loader, loader)
    text = made.file.getvalue()
    assert re.search(r"4/4.*my_loss \d\.\d{3}", text)
    trainer.validate(_Toy(), loader, verbose=False)
    trainer.test(_Tested(), loader, verbose=False)


class _Tested(_Toy):
    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)


def test_what_is_logged_while_the_bar_is_there_goes_above_it(console):
    terminal = console(is_terminal=True)
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("a_test")
    logger.addHandler(handler)

    class Logs(Callback):
        def on_train_batch_end(self, trainer, *args):
            logger.warning("half-way")

    before = handler.stream
    try:
        fit(validation=None, callbacks=[Logs()], max_epochs=1)
    finally:
        logger.removeHandler(handler)
    assert terminal.file.getvalue().count("half-way\n") == 3
    assert handler.stream is before


def test_other_ranks_show_nothing(console):
    pipe, bar = console(is_terminal=False), StepProgress()
    bar.setup = lambda trainer, module, stage: (StepProgress.setup(bar, trainer, module, stage), bar.disable())
    run(ORPO(), validation=make_rows(4, seed=9), callbacks=[bar], enable_progress_bar=True)
    assert lines_of(pipe) == []


def test_the_terminal_is_given_back_when_a_run_fails(console):
    console(is_terminal=True)
    bar = StepProgress()

    class Fails(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(ORPO(), callbacks=[bar, Fails()], enable_progress_bar=True)
    assert bar._progress is None
