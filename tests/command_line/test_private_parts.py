"""What is borrowed from the private parts of jsonargparse is there, and does what it is borrowed for."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace, _typehints

from orpo_lightning import PreferenceModule
from orpo_lightning.command_line import private_parts
from orpo_lightning.command_line.private_parts import actions_of, check_null, is_block, type_of, verbs_of


@pytest.fixture
def parser():
    parser = ArgumentParser()
    parser.add_class_arguments(PreferenceModule, "model", instantiate=False)
    return parser


def test_arguments_are_known_with_their_types_and_blocks(parser):
    found = {action.dest: action for action in actions_of(parser)}
    assert type_of(found["model.optimizer.lr"]) is float
    assert type_of(found["model.policy.revision"]) == str | None
    assert is_block(found["model.optimizer"])
    assert not is_block(found["model.optimizer.lr"])
    assert type_of(found["help"]) is None


def test_null_is_checked_against_a_type(parser):
    found = {action.dest: action for action in actions_of(parser)}
    check_null(parser, found["model.policy.revision"], Namespace())
    with pytest.raises(TypeError, match=r"model\.optimizer\.lr"):
        check_null(parser, found["model.optimizer.lr"], Namespace())


def test_verbs_are_known(parser):
    whole = ArgumentParser()
    assert not verbs_of(whole)
    whole.add_subcommands().add_subcommand("fit", parser)
    assert verbs_of(whole) == {"fit": parser}


def test_what_is_replaced_is_there():
    assert callable(private_parts._discard_unknown_arguments)
    assert hasattr(_typehints, "discard_init_args_on_class_path_change")


def test_an_objective_named_after_another_starts_from_its_own_defaults(printed_config):
    Path("dpo.yaml").write_text("model: {objective: {class_path: DPO, init_args: {beta: 0.3}}}\n")
    printed = yaml.safe_load(printed_config("fit", "--config=dpo.yaml", "--model.objective=SimPO"))
    assert printed["model"]["init_args"]["objective"]["init_args"] == {"beta": 2.0, "gamma": 1.0}


def test_nothing_else_of_the_package_reaches_into_jsonargparse():
    package = Path(private_parts.__file__).parents[1]
    names = ("_typehint", "._actions", "_check_value_key", "_subcommands_action", "_ActionConfigLoad")
    for file in package.rglob("*.py"):
        if file != Path(private_parts.__file__):
            assert not any(name in file.read_text() for name in names), file
