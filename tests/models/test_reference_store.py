"""Log-probabilities on disk: what is written is read, by anyone, and what is damaged is noticed."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from hypothesis import given, settings, strategies as st

from orpo_lightning.models import reference_store
from orpo_lightning.models.reference_store import ReferenceStore, remembered

ENTRIES = st.dictionaries(st.binary(min_size=16, max_size=16), st.floats(allow_nan=False), max_size=20)


def key(number):
    return number.to_bytes(16, "big")


@settings(max_examples=30, deadline=None)
@given(ENTRIES, ENTRIES)
def test_what_was_written_is_read_bit_for_bit(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("store")
    for part in (first, second):
        ReferenceStore(folder).write(part)
    found = ReferenceStore(folder).read({*first, *second})
    assert found.keys() == {*first, *second}
    assert all(value in (first.get(name), second.get(name)) for name, value in found.items())


def test_only_what_is_asked_for_is_read(tmp_path):
    store = ReferenceStore(tmp_path)
    store.write({key(1): -1.0, key(2): -2.0})
    assert store.read({key(2), key(3)}) == {key(2): -2.0}


def test_a_store_that_is_not_there_is_empty_and_reading_makes_no_folder(tmp_path):
    assert ReferenceStore(tmp_path / "none").read({key(1)}) == {}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["cut off", "emptied", "altered"])
def test_a_damaged_file_is_said_and_removed_and_the_others_are_read(tmp_path, damage):
    store = ReferenceStore(tmp_path)
    store.write({key(1): -1.0, key(2): -2.0})
    (damaged,) = tmp_path.iterdir()
    store.write({key(3): -3.0})
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes({"cut off": content[:-7], "emptied": b"", "altered": bytes(content)}[damage])
    with pytest.warns(UserWarning, match=r"is damaged; it is removed.*computed again"):
        assert store.read({key(1), key(2), key(3)}) == {key(3): -3.0}
    assert not damaged.exists()
    store.write({key(1): -1.0, key(2): -2.0})
    assert store.read({key(1), key(2), key(3)}) == {key(1): -1.0, key(2): -2.0, key(3): -3.0}


def test_a_write_that_was_killed_leaves_nothing_that_is_read(tmp_path):
    (tmp_path / "0123.77.part").write_bytes(b"half of a record")
    assert ReferenceStore(tmp_path).read({key(1)}) == {}


WRITER = """
import sys
from pathlib import Path
from orpo_lightning.models import reference_store
from orpo_lightning.models.reference_store import ReferenceStore
folder, first = Path(sys.argv[1]), int(sys.argv[2])
store = ReferenceStore(folder)
for start in range(first, first + 300, 3):
    # neighbours overlap: two processes write some of the same values
    store.write({n.to_bytes(16, "big"): -float(n) for n in range(start, start + 5)})
    store.read({start.to_bytes(16, "big")})
"""


@pytest.mark.slow
def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(first)], stderr=subprocess.PIPE, text=True)
        for first in (0, 150, 0)
    ]
    for writer in writers:
        assert writer.wait(timeout=120) == 0, writer.stderr.read()
        assert "damaged" not in writer.stderr.read()
        writer.stderr.close()
    wanted = {key(n) for n in range(452)}
    assert ReferenceStore(tmp_path).read(wanted) == {key(n): -float(n) for n in range(452)}
    assert not list(tmp_path.glob("*.part"))


def test_a_model_that_was_looked_at_is_not_looked_at_again(tmp_path):
    looks = []

    def look():
        looks.append(1)
        return "fingerprint", "architecture"

    for identity in ("a", "a", "b", None, None):
        assert remembered(tmp_path / "models", identity, look) == ("fingerprint", "architecture")
    assert len(looks) == 4  # a, b, and each time where nothing identifies it
    for path in Path(tmp_path / "models").iterdir():
        path.write_text("{half")
    assert remembered(tmp_path / "models", "a", look) == ("fingerprint", "architecture")
    assert len(looks) == 5


def test_all_processes_look_at_a_model_where_one_of_them_has_not(tmp_path, monkeypatch):
    looks = []

    def look():
        looks.append(1)
        return "fingerprint", "architecture"

    remembered(tmp_path, "a", look)
    monkeypatch.setattr(reference_store, "from_all_ranks", lambda own: [own, None])  # another machine, another cache
    assert remembered(tmp_path, "a", look) == ("fingerprint", "architecture")
    assert len(looks) == 2


FILLING = """
import sys, time
from pathlib import Path
from orpo_lightning.models import reference_store
from orpo_lightning.models.reference_store import ReferenceStore
with ReferenceStore(Path(sys.argv[1])).filled_by_one(-1):
    print("filling", flush=True)
    time.sleep(600)
"""


def test_one_process_fills_at_a_time_and_one_that_is_killed_lets_go(tmp_path):
    store = ReferenceStore(tmp_path / "store")
    other = subprocess.Popen([sys.executable, "-c", FILLING, str(store.folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "filling\n"
    lock = FileLock(store.folder / ".filling.lock")
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    with store.filled_by_one(seconds=0.1):  # who has waited long enough goes on beside it
        store.write({b"k" * 16: -1.0})
    other.kill()
    other.wait()
    with store.filled_by_one(seconds=-1), pytest.raises(Timeout):
        lock.acquire(timeout=0)
    lock.acquire(timeout=0)
    lock.release()


def test_a_look_that_cannot_be_kept_is_none_that_fails(tmp_path):
    (tmp_path / "models").write_text("a file is in the place of the folder")
    look = ("fingerprint", "architecture")
    assert remembered(tmp_path / "models", "a", lambda: look) == look
