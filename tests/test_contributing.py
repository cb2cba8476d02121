"""CONTRIBUTING.md: the tests, files and commands that it names are there."""

import re

import pytest
from pages import ROOT, Page

PAGE = Page(ROOT / "CONTRIBUTING.md")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE.text)))


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_is_there(named):
    path, _, name = named.partition("::")
    assert (ROOT / path).is_file()
    if name:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), flags=re.MULTILINE)


def test_every_promise_has_a_test_of_its_name():
    promises = re.split(r"^- \*\*", PAGE.text.partition("## The promises")[2], flags=re.MULTILINE)[1:]
    assert [promise[:2] for promise in promises] == [f"P{number}" for number in range(1, 10)]
    assert all("tests/" in promise for promise in promises[:-1])


def test_the_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for command in "\n".join(PAGE.blocks("bash")).splitlines():
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE), command


def test_the_table_of_folders_is_that_of_the_package():
    named = {name.strip("/") for cells in PAGE.rows("folder | holds") for name in re.findall(r"`([\w./]+)`", cells[0])}
    assert all((ROOT / "orpo_lightning" / name).exists() for name in named)
    folders = {path.name for path in (ROOT / "orpo_lightning").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= named
