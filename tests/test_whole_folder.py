"""A folder is whole or not there, and what lies beside it is nobody's business."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from orpo_lightning.models.hub import MARKERS
from orpo_lightning.whole_folder import _left, is_free, put_all_back, take_place, whole_folder
from orpo_lightning.write_errors import not_written


def write_whole(folder, write, last=()):
    with whole_folder(folder, last) as new:
        write(new)


def writes(*names):
    return lambda folder: [(folder / name).touch() for name in names]


def fail(folder):
    (folder / "half").touch()
    raise KeyboardInterrupt


def fails(folder):
    with pytest.raises(KeyboardInterrupt):
        write_whole(folder, fail)


def killed(folder, moment):
    """Write a folder in a process that is killed: while it writes, or after its first rename."""
    script = f"""
import os, pathlib, signal, sys
from orpo_lightning.whole_folder import whole_folder
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
rename = os.rename
def once(source, place):
    rename(source, place)
    die()
os.rename = once
with whole_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    if {moment == "while it writes"}:
        die()
"""
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == -9


def test_a_folder_is_whole_or_not_there(tmp_path):
    fails(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    write_whole(tmp_path / "deep" / "model", writes("new"))
    assert os.listdir(tmp_path / "deep") == ["model"]
    assert os.listdir(tmp_path / "deep" / "model") == ["new"]


def test_a_folder_that_is_there_stays_until_the_new_one_is_whole(tmp_path):
    write_whole(tmp_path / "model", writes("old"))
    fails(tmp_path / "model")
    assert os.listdir(tmp_path / "model") == ["old"]
    write_whole(tmp_path / "model", writes("new"))
    assert os.listdir(tmp_path / "model") == ["new"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["model.old", "model.part", ".model.old", ".model.orpo-lightning-mine"])
def test_a_users_own_folders_beside_it_stay_as_they_are(tmp_path, name):
    (tmp_path / name / "old").mkdir(parents=True)
    (tmp_path / name / "old" / "mine").touch()
    fails(tmp_path / "model")
    for _ in range(2):
        write_whole(tmp_path / "model", writes("new"))
    assert sorted(os.listdir(tmp_path)) == sorted(["model", name])
    assert os.listdir(tmp_path / name / "old") == ["mine"]


def test_what_a_killed_write_left_is_hidden_and_cleared_away_by_the_next(tmp_path):
    killed(tmp_path / "model", "while it writes")
    (hidden,) = os.listdir(tmp_path)
    assert hidden.startswith(".model.orpo-lightning-")
    write_whole(tmp_path / "model", writes("new"))
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["new"]


def test_a_write_that_is_killed_between_its_two_renames_loses_nothing(tmp_path):
    write_whole(tmp_path / "model", writes("old"))
    killed(tmp_path / "model", "between")
    assert not (tmp_path / "model").exists()
    fails(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["old"]


def test_what_a_killed_write_moved_away_does_not_replace_a_newer_folder(tmp_path):
    write_whole(tmp_path / "model", writes("old"))
    killed(tmp_path / "model", "between")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "newer").touch()
    fails(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["newer"]


def test_a_second_rename_that_fails_puts_the_older_folder_back(tmp_path, monkeypatch):
    write_whole(tmp_path / "model", writes("old"))
    rename = os.rename

    def refuse(source, place):
        if source.name == "new":
            raise PermissionError("no")
        rename(source, place)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "model", writes("new"))
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["old"]


def test_the_folder_of_somebody_who_is_writing_is_left_alone(tmp_path):
    hidden = tmp_path / ".model.orpo-lightning-theirs"
    (hidden / "new").mkdir(parents=True)
    with FileLock(hidden / "orpo_lightning.lock"):
        write_whole(tmp_path / "model", writes("new"))
        assert (hidden / "new").is_dir()
    write_whole(tmp_path / "model", writes("new"))
    assert os.listdir(tmp_path) == ["model"]


def test_the_current_folder_is_filled_and_stays_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_whole(Path("."), writes("config.json", "weights"))
    assert sorted(os.listdir()) == ["config.json", "weights"]
    assert os.listdir(tmp_path) == ["here"]


@pytest.mark.parametrize("name", ["empty", "link"])
def test_an_empty_folder_is_filled_where_it_is(tmp_path, name):
    # it may be a mount point, which cannot be renamed, on another file system than the folder around it
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    before = (tmp_path / "empty").stat().st_ino
    fails(tmp_path / name)
    assert os.listdir(tmp_path / "empty") == []
    made_in = []
    write_whole(tmp_path / name, lambda folder: made_in.append(folder) or writes("config.json", "weights")(folder))
    assert made_in[0].is_relative_to(tmp_path / "empty")
    assert sorted(os.listdir(tmp_path / "empty")) == ["config.json", "weights"]
    assert (tmp_path / "empty").stat().st_ino == before
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"]
    assert (tmp_path / "link").is_symlink()


def test_what_makes_a_folder_a_model_is_the_last_to_come(tmp_path, monkeypatch):
    rename, moved = os.rename, []
    monkeypatch.setattr(os, "rename", lambda source, place: moved.append(source.name) or rename(source, place))
    (tmp_path / "model").mkdir()
    write_whole(tmp_path / "model", writes("config.json", "a", "tokenizer_config.json", "z"), MARKERS)
    assert set(moved[:2]) == {"a", "z"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the name of an open file is that of Linux")
@pytest.mark.parametrize("there", ["nothing", "an empty folder", "an old folder"])
def test_all_files_are_on_the_disk_before_the_folder_has_its_place(tmp_path, monkeypatch, there):
    if there != "nothing":
        (tmp_path / "model").mkdir()
    if there == "an old folder":
        (tmp_path / "model" / "old").touch()
    happened, rename, fsync = [], os.rename, os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: happened.append(os.readlink(f"/proc/self/fd/{number}")) or fsync(number)
    )
    monkeypatch.setattr(os, "rename", lambda *places: happened.append("moved") or rename(*places))

    def write(folder):
        (folder / "deep").mkdir()
        writes("weights", "config.json", "deep/file")(folder)

    write_whole(tmp_path / "model", write)
    before = happened[: happened.index("moved")]
    assert {Path(path).name for path in before} == {"weights", "config.json", "deep", "file", "new"}
    assert Path(before[-1]).name == "new"
    last = tmp_path if there != "an empty folder" else tmp_path / "model"
    assert happened[-1] == str(last)


def cannot(code):
    def refuse(number):
        raise OSError(code, os.strerror(code))

    return refuse


def test_where_the_system_cannot_bring_a_folder_to_the_disk_it_is_written_all_the_same(tmp_path, monkeypatch):
    for code in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
        monkeypatch.setattr(os, "fsync", cannot(code))
        write_whole(tmp_path / "model", writes(str(code)))
        assert os.listdir(tmp_path / "model") == [str(code)]


def test_a_disk_that_fails_is_an_error_and_what_was_there_stays(tmp_path, monkeypatch):
    write_whole(tmp_path / "model", writes("old"))
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", cannot(code))
            with pytest.raises(OSError, match=os.strerror(code)):
                write_whole(tmp_path / "model", writes("new"))
        assert os.listdir(tmp_path) == ["model"]
        assert os.listdir(tmp_path / "model") == ["old"]


def failing_after(monkeypatch, call, code):
    """The disk does not take what comes after a rename."""
    rename = getattr(os, call)

    def fail(*places):
        rename(*places)
        monkeypatch.setattr(os, "fsync", cannot(code))

    monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_what_was_there_returns_where_the_disk_does_not_take_the_new_name(tmp_path, monkeypatch, code):
    write_whole(tmp_path / "model", writes("old"))
    with monkeypatch.context() as patched:
        failing_after(patched, "rename", code)
        with pytest.raises(OSError, match="when it had its name already") as error:
            write_whole(tmp_path / "model", writes("new"))
    assert error.value.errno == errno.EIO
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["old"]


def test_of_a_file_that_has_its_place_it_is_said_that_it_may_not_last(tmp_path, monkeypatch):
    (tmp_path / "new").write_text("new")
    (tmp_path / "last.ckpt").write_text("old")
    with monkeypatch.context() as patched:
        failing_after(patched, "replace", errno.ENOSPC)
        with pytest.raises(OSError, match="when it had its name already") as error:
            take_place(tmp_path / "new", tmp_path / "last.ckpt")
    assert "What is there may not last" in str(not_written(tmp_path / "last.ckpt", error.value))
    assert (tmp_path / "last.ckpt").read_text() == "new"


@pytest.mark.parametrize("there", ["nothing", "an old folder"])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to("disk/model")
    if there == "an old folder":
        (tmp_path / "disk" / "model").mkdir()
        (tmp_path / "disk" / "model" / "old").touch()
    write_whole(tmp_path / "model", writes("new"))
    assert (tmp_path / "model").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["model"]
    assert os.listdir(tmp_path / "disk" / "model") == ["new"]


def test_a_place_is_free_where_a_write_would_replace_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "to nothing").symlink_to("nowhere")
    assert all(is_free(tmp_path / name) for name in ("empty", "link", "to nothing", "no/where"))
    killed(tmp_path / "empty", "while it writes")
    assert os.listdir(tmp_path / "empty") != []
    assert is_free(tmp_path / "empty")
    assert is_free(tmp_path / "link")
    (tmp_path / "file").touch()
    assert not any(is_free(tmp_path / name) for name in ("", "file"))
    write_whole(tmp_path / "empty", writes("new"))
    assert os.listdir(tmp_path / "empty") == ["new"]
    assert not is_free(tmp_path / "empty")


def test_the_name_of_the_place_is_no_pattern(tmp_path):
    (tmp_path / "[ab]*").mkdir()
    assert list(_left(tmp_path / "[ab]*")) == []
    killed(tmp_path / "[ab]*", "while it writes")
    assert len(list(_left(tmp_path / "[ab]*"))) == 1


def test_what_another_user_writes_there_is_passed_over(tmp_path, monkeypatch):
    killed(tmp_path / "model", "while it writes")
    (left,) = _left(tmp_path / "model")

    def is_file(path):
        if path.parent == left:
            raise PermissionError(13, "Permission denied", str(path))
        return True

    monkeypatch.setattr(Path, "is_file", is_file)  # as of a folder with the rights 0700, for all but its owner
    put_all_back(tmp_path)
    assert list(_left(tmp_path / "model")) == []
    assert left.exists()
