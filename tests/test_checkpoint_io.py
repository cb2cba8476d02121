"""Checkpoints that the trainer reads hold no code, and those that it writes are whole."""

import errno
import functools
import http.server
import os
import pickle
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from orpo_lightning.__main__ import main
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.write_errors import cause_of

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = [*QUIET, "--trainer.max_steps=2", "--trainer.limit_val_batches=1"]
OLDER = {"pytorch-lightning_version": "2.6.0", "step": 1}


class Malicious:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


class UsersIO(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        assert weights_only is True
        return super().load_checkpoint(path, weights_only=weights_only)


@pytest.fixture
def evil(tmp_path):
    """A checkpoint that makes the folder "it ran" when it is unpickled."""
    torch.save({"state_dict": {}, "extra": Malicious(tmp_path / "it ran")}, tmp_path / "evil.ckpt")
    return tmp_path / "evil.ckpt"


@pytest.fixture
def address(tmp_path):
    """Where the folder is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def orpo_lightning(tmp_path, monkeypatch, only_built_in_objectives):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", *map(str, arguments)])
        main()

    return run


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(orpo_lightning, evil, verb):
    with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read as tensors and plain data alone"):
        orpo_lightning(verb, "--ckpt_path", evil, *SHORT)
    assert not Path("it ran").exists()


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_nor_does_one_that_lies_where_a_runs_own_would(orpo_lightning, evil, verb, name):
    place = Path("runs/run/checkpoints") / {"last": "last.ckpt", "best": "best-step=4.ckpt"}[name]
    place.parent.mkdir(parents=True)
    evil.replace(place)
    with pytest.raises(ValueError, match=rf"{place.name} cannot be read as tensors and plain data alone"):
        orpo_lightning(verb, "--ckpt_path", name, "--trainer.max_steps=5", *QUIET)
    assert not Path("it ran").exists()


def test_nor_where_it_is_to_be_exported_or_to_answer_or_to_be_trained_from(orpo_lightning, evil):
    Path("prompts.txt").write_text("hello")
    for words in (
        ["export", "--checkpoint", evil, "--out", "out"],
        ["generate", "--model", evil, "--prompts", "prompts.txt", "--out", "out.jsonl"],
        ["fit", "--model.policy.name_or_path", evil, *SHORT],
        ["fit", "--model.objective=DPO", "--model.reference.name_or_path", evil, *SHORT],
    ):
        with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read as tensors and plain data alone"):
            orpo_lightning(*words)
        assert not Path("it ran").exists()


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_an_address_is_refused_and_nothing_of_it_runs(orpo_lightning, evil, address, verb):
    with pytest.raises(ValueError, match="is a web address; accepted: a file or folder"):
        orpo_lightning(verb, "--ckpt_path", f"{address}/evil.ckpt", *QUIET)
    assert not Path("it ran").exists()


def test_nor_does_it_run_where_the_trainer_is_used_without_the_command_line(tmp_path, evil, address, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for path in (evil, f"{address}/evil.ckpt"):
        with pytest.raises(ValueError, match="accepted: a"):
            SafeCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "it ran").exists()


def test_a_plugin_of_the_users_own_is_kept_and_told_to_take_tensors_alone(orpo_lightning, evil):
    with pytest.raises(Exception, match="Weights only load failed"):
        orpo_lightning(
            *("fit", "--trainer.plugins=tests.test_checkpoint_io.UsersIO", "--ckpt_path", evil, *SHORT),
        )
    assert not Path("it ran").exists()


def test_to_ask_for_other_pickles_is_refused(orpo_lightning, evil):
    with pytest.raises(ValueError, match="weights_only = False would run any code"):
        orpo_lightning("fit", "--ckpt_path", evil, "--weights_only=false", *QUIET)
    assert not Path("it ran").exists()


@pytest.mark.slow
def test_a_checkpoint_does_not_change_the_configuration(orpo_lightning):
    orpo_lightning("fit", *SHORT)
    file = Path("runs/run/checkpoints/last.ckpt")
    saved = torch.load(file, weights_only=True)
    hyper = {"_class_path": "no.such.Module"}
    torch.save(saved | {"hyper_parameters": hyper}, file)
    orpo_lightning("fit", "--ckpt_path", file, *QUIET, "--trainer.max_steps=3", "--trainer.limit_val_batches=1")


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_file_of_another_kind_is_named(orpo_lightning, verb):
    torch.save({"state_dict": {}}, "other.ckpt")
    with pytest.raises(
        ValueError, match=r"other\.ckpt is no checkpoint of a run; accepted: a \.ckpt file that a fit wrote"
    ):
        orpo_lightning(verb, "--ckpt_path", "other.ckpt", *SHORT)


def test_half_a_file_is_named(tmp_path):
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint({"weights": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: it is cut off or altered .*; no other checkpoint"):
        SafeCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"hello world\n", b'{"a": 1}', bytes(range(7, 256)) * 9, b""],
    ids=["text", "json", "bytes", "nothing"],
)
def test_what_is_no_checkpoint_at_all_is_named_without_a_word_about_code(tmp_path, content):
    path = tmp_path / "notes.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.ckpt cannot be read as a checkpoint; is it whole\?"):
        SafeCheckpointIO().load_checkpoint(path)


def test_a_bare_pickle_is_refused_as_code_could_be_in_it(tmp_path):
    path = tmp_path / "bare.ckpt"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "it ran"), protocol=2))
    with pytest.raises(ValueError, match=r"bare\.ckpt cannot be read as tensors and plain data alone"):
        SafeCheckpointIO().load_checkpoint(path)
    assert not (tmp_path / "it ran").exists()


def test_what_a_kill_left_under_the_unfinished_name_is_not_written_into(tmp_path):
    best, io = tmp_path / "best-step=1.ckpt", SafeCheckpointIO()
    io.save_checkpoint(OLDER, best)
    os.link(best, tmp_path / "last.ckpt.part")  # killed before it was renamed
    io.save_checkpoint(OLDER | {"step": 2}, tmp_path / "last.ckpt")
    assert io.load_checkpoint(best) == OLDER


def test_after_a_save_its_name_is_on_the_disk_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}"))))
    SafeCheckpointIO().save_checkpoint(OLDER, tmp_path / "last.ckpt")
    assert synced == [tmp_path / "last.ckpt.part", tmp_path]


KILLED = """
import os, pathlib, signal, sys, torch
from orpo_lightning.checkpoint_io import SafeCheckpointIO

os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
SafeCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, sys.argv[1])
"""


@pytest.mark.slow
def test_a_save_that_is_killed_in_the_middle_leaves_the_older_file_whole(tmp_path):
    path, io = tmp_path / "last.ckpt", SafeCheckpointIO()
    io.save_checkpoint(OLDER, path)
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    assert io.load_checkpoint(path) == OLDER
    io.save_checkpoint(OLDER | {"step": 3}, path)
    assert io.load_checkpoint(path) == OLDER | {"step": 3}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_save_that_fails_leaves_the_older_file_alone(tmp_path):
    path, io = tmp_path / "last.ckpt", SafeCheckpointIO()
    io.save_checkpoint(OLDER, path)
    with pytest.raises(
        ValueError, match=r"a checkpoint cannot hold step, a builtins\.function: reading it again could"
    ):
        io.save_checkpoint({"step": lambda: 2}, path)
    assert io.load_checkpoint(path) == OLDER
    assert os.listdir(tmp_path) == ["last.ckpt"]


FULL = """
import resource, sys, torch
from orpo_lightning.checkpoint_io import SafeCheckpointIO

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the system refuses what goes beyond, as on a full disk
SafeCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, sys.argv[1])
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_older_file_whole_and_says_what_is_needed(tmp_path):
    path, io = tmp_path / "last.ckpt", SafeCheckpointIO()
    io.save_checkpoint(OLDER, path)
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=False)
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"OSError: {path} cannot be written: File too large; it needs 0.4 MB. ")
    assert sentence.endswith(
        "What was there before is as it was: allow files of that size (ulimit -f, or another file system), then go on "
        "with --ckpt_path last"
    )
    assert io.load_checkpoint(path) == OLDER
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_disk_that_is_full_when_all_is_written_is_one_too(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, io = tmp_path / "last.ckpt", SafeCheckpointIO()
    io.save_checkpoint(OLDER, path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"last\.ckpt cannot be written: No space left on device; it needs 0\.0 MB, free"):
        io.save_checkpoint(OLDER | {"step": 2}, path)
    assert io.load_checkpoint(path) == OLDER
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("ENOSPC", "What was there before is as it was: make room"),
        ("EDQUOT", "What was there before is as it was: make room"),
        ("EACCES", "What was there before is as it was: let this user write there"),
        ("EROFS", "What was there before is as it was: mount the file system for writing"),
        ("ENOENT", "What was there before is as it was: bring back the folder around it"),
        ("EMFILE", "What was there before is as it was: allow more open files (ulimit -n)"),
        ("EIO", "What is there may not last: see to the disk"),
        ("EBUSY", "What was there before is as it was: see to that"),
    ],
)
def test_what_to_do_is_said_by_what_the_system_says(tmp_path, monkeypatch, code, advice):
    number = getattr(errno, code)

    def fail(file):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "last.ckpt"
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="cannot be written") as refused:
        SafeCheckpointIO().save_checkpoint(OLDER, path)
    said, _, to_do = str(refused.value).partition(". ")
    assert to_do == f"{advice}, then go on with --ckpt_path last"
    assert said.startswith(f"{path} cannot be written: {os.strerror(number)}")
    assert ("; it needs 0.0 MB" in said) == ("make room" in advice)
    assert (", free are " in said) == (code == "ENOSPC")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_has_no_room_for_a_folder_is_full(tmp_path, monkeypatch):
    def fail(*given, **others):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OSError, match=r"No space left on device; it needs 0.0 MB, free are .*: make room"):
        SafeCheckpointIO().save_checkpoint(OLDER, tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_an_error_that_leads_back_to_itself_has_no_cause_of_the_system():
    error = RuntimeError("of CUDA")
    error.__cause__ = error
    assert cause_of(error) is None


def test_a_file_in_the_place_of_the_folder_is_to_be_moved_away(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(OSError, match=r"File exists.*: move away what is in the way, then go on with"):
        SafeCheckpointIO().save_checkpoint(OLDER, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(OSError, match=r"Is a directory.*: move away what is in the way, then go on with"):
        SafeCheckpointIO().save_checkpoint(OLDER, tmp_path / "last.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "last.ckpt"]


@pytest.mark.slow
def test_a_run_on_a_full_disk_stops_with_one_line_and_goes_on_when_there_is_room(orpo_lightning, tmp_path):
    saving = ["--trainer.max_steps=4", "--checkpoint.every_n_steps=1", "--trainer.limit_val_batches=0"]
    with pytest.raises(SystemExit):
        orpo_lightning("fit", *QUIET, *saving, "--trainer.callbacks=interrupting.SignalAt")
    last = Path("runs/run/checkpoints/last.ckpt")
    before = last.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "orpo_lightning", "fit", *QUIET, *saving, "--ckpt_path=last"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2)),
    )
    assert done.returncode == 1
    assert f"orpo-lightning: {last} cannot be written: File too large; it needs" in done.stderr
    assert "Traceback" not in done.stderr
    assert last.read_bytes() == before
    assert os.listdir("runs/run/checkpoints") == ["last.ckpt"]
    orpo_lightning("fit", *QUIET, *saving, "--ckpt_path=last")
    assert torch.load(last, weights_only=True)["global_step"] == 4


@pytest.mark.slow
def test_the_command_line_writes_its_checkpoints_so(orpo_lightning, monkeypatch):
    written = []
    monkeypatch.setattr(
        os, "replace", lambda source, place, real=os.replace: (written.append(place), real(source, place))
    )
    orpo_lightning("fit", *SHORT)
    file = Path("runs/run/checkpoints/last.ckpt")
    assert file.name in [Path(place).name for place in written]
