"""A file is there whole or not at all, also where several write it at once."""

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
