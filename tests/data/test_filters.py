"""Filters: which rows each drops, under which name."""

import importlib

import pytest

from orpo_lightning import Filter, Message, TextRow
from orpo_lightning.data.filters import (
    Duplicates,
    EmptyChosen,
    EmptyRejected,
    EmptyResponse,
    IdenticalResponses,
    SharedPrompts,
    SmallMargin,
    prompt_key,
    row_key,
)
from orpo_lightning.records import Role, TextResponse

HI = (Message("user", "Hi"),)


def pair(chosen="Hello!", rejected="What?", prompt=HI, **fields):
    return TextRow.pair("a:1", prompt, chosen, rejected, **fields)


def unpaired(text):
    return TextRow("a:1", HI, (TextResponse(text, Role.UNPAIRED, 1.0),))


@pytest.mark.parametrize(
    ("rule", "name", "dropped", "kept"),
    [
        (EmptyChosen(), "empty_chosen", [pair(""), pair(" \n\t")], [pair(), pair(rejected=""), unpaired("")]),
        (EmptyRejected(), "empty_rejected", [pair(rejected=""), pair(rejected=" ")], [pair(), pair(""), unpaired("")]),
        (EmptyResponse(), "empty_response", [unpaired(""), unpaired(" ")], [pair("", ""), unpaired("x")]),
        (IdenticalResponses(), "identical_responses", [pair("a", "a")], [pair("a", "a "), unpaired("a")]),
        (
            SmallMargin(0.5),
            "small_margin",
            [pair(margin=0.4), pair(margin=-2.0)],
            [pair(margin=0.5), pair(), unpaired("x")],
        ),
    ],
)
def test_a_rule_drops_what_it_says_and_nothing_else(rule, name, dropped, kept):
    assert rule.name == name
    assert all(rule(row) for row in dropped)
    assert not any(rule(row) for row in kept)


def test_duplicates_are_rows_seen_before_in_the_same_split():
    rule = Duplicates()
    rule.begin(())
    rows = [pair(), pair("other"), pair(), pair(rejected="other"), pair("other")]
    assert [rule(row) for row in rows] == [False, False, True, False, True]
    rule.begin(())
    assert not rule(pair())


def test_shared_prompts_are_those_of_validation_rows():
    rule = SharedPrompts()
    rule.begin([prompt_key(pair())])
    assert rule(pair("something else"))
    assert not rule(pair(prompt=(Message("user", "Ho"),)))
    rule.begin(())
    assert not rule(pair())


def test_keys_tell_apart_what_differs_in_where_it_is_divided():
    rows = [
        pair("ab", "c"),
        pair("a", "bc"),
        pair("abc", ""),
        pair("", "abc"),
        pair("ab", "c", (Message("user", "Hi"), Message("user", ""))),
        pair("ab", "c", (Message("system", "Hi"),)),
        pair("ab", "c", ()),
    ]
    assert len({row_key(row) for row in rows}) == len(rows)
    assert len({prompt_key(row) for row in rows}) == 4


class Short(Filter):
    """The chosen response has too few words."""

    def __init__(self, words=3):
        self.words = words

    def __call__(self, row):
        return row.chosen is not None and len(row.chosen.split()) < self.words


def test_the_identity_of_a_rule_is_its_code_and_arguments():
    assert Short().identity() == Short(3).identity()
    assert len({Short(3).identity(), Short(4).identity(), SmallMargin(3).identity()}) == 3
    assert "row.chosen.split()" in Short().identity()
    shared = SharedPrompts()
    before = shared.identity()
    shared.begin([prompt_key(pair())])
    assert shared.identity() != before


def test_a_rule_that_hides_an_argument_is_refused_by_name():
    class Hidden(Filter):
        def __init__(self, words=3):
            self._words = words

        def __call__(self, row):
            return False

    with pytest.raises(ValueError, match="filter Hidden: store each argument of __init__ under its name"):
        Hidden().identity()


def test_a_rule_says_what_it_is_about():
    assert Short().rule == "The chosen response has too few words"


def test_the_identity_of_a_rule_changes_with_its_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    identities = []
    for least in (1, 2):
        name = f"rules_{least}"
        (tmp_path / f"{name}.py").write_text(
            f"from orpo_lightning import Filter\n\nLEAST = {least}\n\n\nclass Rule(Filter):\n"
            "    def __call__(self, row):\n        return len(row.responses) < LEAST\n"
        )
        identities.append(importlib.import_module(name).Rule().identity().replace(name, "rules"))
    assert identities[0] != identities[1]
