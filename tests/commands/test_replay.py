"""A step whose loss or gradient is not finite is kept with its run, and ``replay`` takes it again."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers import environment_with_tests, slow
from lightning.pytorch.callbacks import Callback

from orpo_lightning import NonFiniteError, PreferenceDataModule
from orpo_lightning.__main__ import main
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.commands.replay import NOT_REPRODUCED
from orpo_lightning.models.checkpoint import load_policy, read_checkpoint
from orpo_lightning.summary.record import read_record

RUN = Path("runs/failing")
KEPT = RUN / "failed-step-2.pt"
STEP = [f"pairs.jsonl:{i}" for i in range(17, 25)]
"""The rows of the third global batch."""
BAD = "pairs.jsonl:18"
"""The one of them whose chosen response has the length that the losses fail on."""
SETTINGS = [
    *("--config=orpo", "--data.train=pairs.jsonl", "--data.val=null", "--data.shuffle=false"),
    *(f"--trainer.default_root_dir={RUN}", "--trainer.enable_progress_bar=false", "--summary.enabled=false"),
]


class Watching(Callback):
    """Keeps what a step of a fit has come to when it fails: of each value its row, the value, and what it is of."""

    rows: ClassVar[list] = []
    weights: ClassVar[dict] = {}

    def on_exception(self, trainer, pl_module, exception):
        Watching.rows = [
            (row_id, *(values[i].item() for values in (each.loss, *each.seen.values())))
            for each in pl_module.scored
            for i, row_id in enumerate(each.row_ids)
        ]
        Watching.weights = dict(pl_module.policy.net.named_parameters())


@dataclass(frozen=True)
class Failed:
    """A fit that has failed, in the current folder."""

    error: NonFiniteError
    rows: list
    weights: dict
    tokens: int


def write_rows():
    """Write the data; the length of the response that the losses fail on."""
    rows = [{"prompt": f"{i} and {i}?", "chosen": f"{2 * i}.", "rejected": f"It is {i}, I say."} for i in range(1, 33)]
    rows[17]["chosen"] = "It is the sum of the two of them, and that I do know."
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = PreferenceDataModule(train="pairs.jsonl", val=None)
    data.setup("fit")
    return max(len(response.ids) for row in data.rows["train"] for response in row.responses)


def fail(objective="FailingORPO", *options):
    """Fit an objective until it fails."""
    tokens = write_rows()
    own = [f"--model.objective=failing_losses.{objective}", f"--model.objective.tokens={tokens}"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "watching", sys.modules[__name__])
        command = ["orpo-lightning", "fit", *SETTINGS, *own, "--trainer.callbacks=watching.Watching", *options]
        patched.setattr(sys, "argv", command)
        with pytest.raises(NonFiniteError) as error:
            main()
    return Failed(error.value, Watching.rows, Watching.weights, tokens)


@pytest.fixture
def here(tmp_path, monkeypatch, only_built_in_objectives):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A fit that failed on its third step, of micro-batches of two rows, with its folder."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        failed = fail("FailingORPO", "--trainer.accumulate_grad_batches=4", "--checkpoint.every_n_steps=1")
    return folder, failed


@pytest.fixture
def failed(here, first):
    """The same in the current folder."""
    folder, failed = first
    shutil.copytree(folder, here, dirs_exist_ok=True)
    return failed


@pytest.fixture
def replay(monkeypatch, capsys):
    """What the command prints, and its exit code."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", "replay", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return printed.out or printed.err, code

    return run


def rows_of(printed):
    """The rows of the table: the id, the numbers, and whether they are finite."""
    lines = (line.split() for line in printed.splitlines() if line.startswith("pairs.jsonl:"))
    return [(row_id, *map(float, numbers), finite) for row_id, *numbers, finite in lines]


def bad_rows_of(printed):
    return [row_id for row_id, *_, finite in rows_of(printed) if finite == "no"]


def assert_fails_again(failed, printed, code):
    """All numbers are those that the fit had, to the digits that are printed; NaN is not equal to itself."""
    assert code == 0
    expected = [(row_id, *(float(f"{value:.6g}") for value in numbers)) for row_id, *numbers in failed.rows]
    assert sorted(repr(tuple(row[:-1])) for row in rows_of(printed)) == sorted(map(repr, expected))
    assert {row_id for row_id, *_ in expected} == set(STEP)
    assert rows_of(printed)[0][0] == BAD
    assert bad_rows_of(printed) == [BAD]


def test_a_step_of_a_loss_that_is_not_finite_fails_again_with_the_numbers_that_it_had(failed, replay):
    assert str(failed.error) == (
        f"the loss of optimizer step 2 is nan; the weights are those from before this step. Rows: {BAD}. To take this "
        f"step again and look into it: orpo-lightning replay {KEPT}"
    )
    assert read_record(RUN / "run.json").reason == str(failed.error)
    printed, code = replay(KEPT)
    assert_fails_again(failed, printed, code)
    assert "the loss: nan; the gradient norm: " in printed
    assert printed.endswith("It fails as it did: the loss of optimizer step 2 was nan, and is nan here.\n")


CACHED = ["--model.reference.mode=cached", "--trainer.precision=bf16-mixed"]
ADAPTER = ["--model.policy.lora.r=2", "--trainer.precision=64-true"]
COPIED = ["--model.policy.dtype=float64", "--model.optimizer.lr=1e-2"]


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("FailingKTO", ADAPTER),
        slow("FailingKTO", CACHED),
        slow("FailingDPO", CACHED),
        slow("FailingDPO", COPIED),
        slow("FailingDPO", [*ADAPTER, "--trainer.accumulate_grad_batches=2"]),
        slow("FailingSFT", ["--model.layout=padded", "--trainer.precision=bf16-true"]),
    ],
)
def test_so_does_that_of_every_objective_reference_and_precision(here, replay, objective, options):
    failed = fail(objective, *options)
    assert_fails_again(failed, *replay(KEPT))


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("FailingDPO", [*CACHED, "--trainer.accumulate_grad_batches=2"]),
        slow("FailingORPO", []),
        slow("FailingDPO", ADAPTER),
    ],
)
def test_of_a_gradient_that_is_not_finite_the_row_and_the_parameters_are_found(here, replay, objective, options):
    failed = fail(objective, "--model.objective.in_gradient=true", *options)
    # the values tell nothing of the row
    assert failed.error.rows == STEP
    printed, code = replay(RUN)  # the newest of the run
    assert_fails_again(failed, printed, code)
    assert f"rows whose own gradient is not finite: {BAD}\n" in printed
    trained = [name for name, weight in failed.weights.items() if weight.requires_grad]
    named = re.search(r"^gradients that are not finite, of (\d+): (\d+), (\S+), ", printed, flags=re.MULTILINE)
    assert (int(named[1]), named[3]) == (len(trained), f"policy.net.{trained[0]}")
    assert "It fails as it did: the gradient norm of optimizer step 2 was" in printed


def test_the_weights_that_are_kept_are_those_from_before_the_step_and_a_model_to_use(failed):
    kept = read_checkpoint(KEPT)
    assert kept.steps == 2
    for name, weight in load_policy(kept).named_parameters():
        assert torch.equal(weight, failed.weights[name])


def test_what_is_kept_is_tensors_and_plain_data_alone_and_nothing_to_go_on_from(failed, orpo_lightning):
    saved = torch.load(KEPT, weights_only=True)
    assert saved["failed_step"]["what"] == "the loss"
    assert not {"optimizer_states", "loops"} & saved.keys()
    with pytest.raises(ValueError, match=r"lacks .*loops\.fit_loop"):
        orpo_lightning("fit", *SETTINGS, f"--ckpt_path={KEPT}")


def change(**changes):
    """Write other things into the step that is kept."""
    saved = torch.load(KEPT, weights_only=True)
    saved["failed_step"] |= changes
    torch.save(saved, KEPT)


def test_a_step_that_is_finite_now_is_told_from_one_that_fails_by_the_exit_code(failed, replay):
    config = torch.load(KEPT, weights_only=True)["failed_step"]["config"]
    change(config=config.replace(f"tokens: {failed.tokens}", f"tokens: {failed.tokens + 1}"), device="cuda")
    printed, code = replay(KEPT, "--rows", "3")
    assert code == NOT_REPRODUCED == 3
    assert [finite for *_, finite in rows_of(printed)] == ["yes"] * 3
    assert "and 5 more: --rows 8 lists them" in printed
    said = (
        r"It does not fail as it did: the loss of optimizer step 2 was nan, and is \d\.\d+ here; this is on cpu, and "
    )
    assert re.search(said + r"the run was on cuda\.\n$", printed)


def test_a_secret_that_was_left_out_is_asked_for_and_typed_also_where_no_text_is_taken(failed, replay, monkeypatch):
    config = torch.load(KEPT, weights_only=True)["failed_step"]["config"]
    change(config=config.replace(f"tokens: {failed.tokens}", "tokens: <secret>"))
    asked = "--model.objective.tokens '${oc.env:NAME}'"
    with pytest.raises(
        ValueError, match=r"holds no secrets, and the run had model\.objective\.tokens; set "
    ) as refusal:
        replay(RUN)
    assert str(refusal.value).endswith(f"a variable of the environment: orpo-lightning replay {KEPT} {asked}")
    monkeypatch.setenv("NAME", str(failed.tokens))
    assert_fails_again(failed, *replay(KEPT, *shlex.split(asked), "--rows", "9"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.limit=8"], "unrecognized arguments: --data.limit=8"),
        (["other", "--model.layout=padded"], "unrecognized arguments: other"),
        (["--model.objective.token=8"], "did you mean --model.objective.tokens?"),
    ],
)
def test_only_settings_of_the_model_take_the_place_of_those_of_the_run(failed, replay, words, said):
    printed, code = replay(RUN, *words)
    assert code == 2
    assert said in printed


def test_settings_may_come_first(failed, replay):
    assert_fails_again(failed, *replay("--model.layout", "padded", KEPT, "--rows", "9"))


def test_a_step_that_fails_in_another_way_is_none_that_fails_again(failed, replay):
    change(what="the gradient norm")
    printed, code = replay(KEPT)
    assert code == NOT_REPRODUCED
    assert re.search(r"It does not fail as it did: the gradient norm .* here, and the loss is nan\.\n$", printed)


def test_weights_that_were_not_finite_before_the_step_are_named(failed, replay):
    saved = torch.load(KEPT, weights_only=True)
    saved["state_dict"]["policy.net.model.norm.weight"][3] = torch.inf
    torch.save(saved, KEPT)
    printed, _ = replay(KEPT)
    assert "weights that were not finite before the step: 1, policy.net.model.norm.weight\n" in printed


def test_a_file_that_cannot_be_written_leaves_the_error_what_it_is(here):
    (KEPT / "in the way").mkdir(parents=True)
    said = str(fail().error)
    assert said.startswith("the loss of optimizer step 2 is nan")
    assert re.search(rf"The step could not be kept for orpo-lightning replay: {KEPT} cannot be written: ", said)
    assert not list(RUN.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["--health.failed_step=false", slow("--health.enabled=false"), "--trainer.fast_dev_run=4"]
)
def test_where_nothing_is_to_be_kept_nothing_is(here, option):
    assert str(fail("FailingORPO", option).error).endswith(f"Rows: {BAD}")
    assert not KEPT.exists()


ACCEPTED = "accepted: failed-step-N.pt, which a fit leaves in its folder, or that folder"


def test_what_holds_no_step_is_refused_with_what_is_accepted(failed, replay, here):
    def refused(path):
        with pytest.raises((ValueError, OSError)) as error:
            replay(path)
        return str(error.value)

    assert refused("gone.pt") == f"gone.pt: there is no such file or folder; {ACCEPTED}"
    (here / "empty").mkdir()
    assert refused("empty") == f"empty: no step is kept there; {ACCEPTED}"
    checkpoint = RUN / "checkpoints" / "last.ckpt"
    assert refused(checkpoint) == f"{checkpoint} is a checkpoint, and of no step that failed; {ACCEPTED}"
    assert refused("pairs.jsonl") == f"pairs.jsonl cannot be read as a checkpoint; is it whole?; {ACCEPTED}"
    for size in (1000, 9999):
        (here / "half.pt").write_bytes(KEPT.read_bytes()[:size])
        assert re.match(r"half\.pt is damaged: it is cut off or altered", refused("half.pt"))
    torch.save({"run": print}, here / "code.pt")
    assert "could run any code" in refused("code.pt")
    saved = torch.load(KEPT, weights_only=True)
    del saved["failed_step"]["precision"]
    torch.save(saved, here / "other.pt")
    assert "the step in other.pt cannot be read" in refused("other.pt")
    KEPT.unlink()
    KEPT.mkdir()
    assert str(KEPT) in refused(RUN)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_step_of_two_processes_is_taken_again_in_one(here, replay, strategy):
    objective = ["--model.objective=failing_losses.FailingORPO", f"--model.objective.tokens={write_rows()}"]
    two = ["--trainer.devices=2", f"--trainer.strategy={strategy}", "--trainer.accelerator=cpu"]
    command = [sys.executable, "-m", "orpo_lightning", "fit", *SETTINGS, *objective, *two]

    def said_by_a_fit(*options):
        done = subprocess.run(
            [*command, *options], env=environment_with_tests(), capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 1, done.stderr
        return done.stderr

    said = said_by_a_fit("--trainer.accumulate_grad_batches=2")
    assert f"orpo-lightning replay {KEPT}" in said
    printed, code = replay(KEPT)
    assert code == 0
    assert {row_id for row_id, *_ in rows_of(printed)} == set(STEP)
    assert bad_rows_of(printed) == [BAD]
    assert len(SafeCheckpointIO().load_checkpoint(KEPT)["failed_step"]["micro_batches"]) == 4
    assert printed.endswith("It fails as it did: the loss of optimizer step 2 was nan, and is nan here.\n")
    shutil.rmtree(RUN)
    (KEPT / "in the way").mkdir(parents=True)
    assert "The step could not be kept" in said_by_a_fit()  # and no process waits for the other
