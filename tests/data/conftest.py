"""Rows and files that the tests of the data layer share."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def pytest_collection_modifyitems(items):
    absent = pytest.mark.skip(reason=f"the shared data sets are not at {REAL_DATA}")
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()) and not REAL_DATA.is_dir():
            item.add_marker(absent)


@pytest.fixture
def real_data():
    """The folder of the shared data sets; tests that ask for it are skipped where it is not."""
    return REAL_DATA


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder with nothing in it but the converted models."""
    from orpo_lightning.cache_folder import CACHE_VARIABLE, cache_folder

    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "models").symlink_to(cache_folder() / "models")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def write_rows():
    """Writes rows to a file of the kind that its name says, and returns its path as text."""

    def write(path, *rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines.encode()))
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(list(rows), indent=2), encoding="utf-8")
        else:
            path.write_text(lines, encoding="utf-8")
        return str(path)

    return write
