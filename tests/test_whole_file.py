"""A file is there whole or not at all, also where several write it at once."""

import subprocess
import sys

import pytest

from orpo_lightning.whole_file import whole_file


def test_of_two_that_write_at_once_each_writes_a_whole_file_and_the_last_counts(tmp_path):
    path = tmp_path / "notes.txt"
    with whole_file(path) as one:
        one.write_text("one, " * 1000)
        with whole_file(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one, " * 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_where_writing_fails_what_was_there_stays_and_nothing_is_left(tmp_path, error):
    path = tmp_path / "notes.txt"
    path.write_text("before")

    def write_half():
        with whole_file(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_has_left_goes_with_the_next_writing(tmp_path):
    path = tmp_path / "notes.txt"
    program = (
        "import os, signal, sys; from pathlib import Path; from orpo_lightning.whole_file import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as unfinished:\n"
        "    unfinished.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".part"
    other = tmp_path / "notes.txt.older.part"
    other.touch()
    with whole_file(path) as living, whole_file(path) as unfinished:
        living.write_text("not killed")
        unfinished.write_text("whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["notes.txt", other.name]
    assert path.read_text() == "not killed"
