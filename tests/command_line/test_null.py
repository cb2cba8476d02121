"""null where a value is needed is refused by name, in a file and on the command line, before anything loads."""

from pathlib import Path
from typing import get_args

import pytest
from helpers import one_in
from jsonargparse import ArgumentParser

from orpo_lightning.command_line.options import DEFAULT_CLASSES, import_class


def keys_that_need_a_value():
    for prefix, path in DEFAULT_CLASSES.items():
        parser = ArgumentParser()
        parser.add_class_arguments(import_class(path), prefix, instantiate=False)
        for action in parser._actions:
            hint = getattr(action, "_typehint", None)
            if (
                hint is not None
                and type(None) not in get_args(hint)
                and not action.dest.endswith((".help", "model.objective"))
            ):
                yield action.dest


KEYS = sorted(set(keys_that_need_a_value()) - {"data.tokenizer"})  # which is that of the policy
NEED_NONE = {"data.limit", "data.val", "data.seed", "data.max_prompt_length", "model.reference.name_or_path"}


def test_the_keys_are_those_that_one_would_think_of():
    assert {"data.train", "data.global_batch_size", "data.max_length", "data.shuffle", "model.optimizer.lr"} < set(KEYS)
    assert {"model.policy.name_or_path", "model.policy.lora.r", "model.objective.lambda_", "model.layout"} < set(KEYS)
    assert not NEED_NONE & set(KEYS)


@pytest.mark.parametrize("key", one_in(4, KEYS))
def test_it_is_refused_where_the_key_needs_a_value(refusal, key):
    assert refusal("fit", "--config=orpo", f"--{key}=null").startswith(f"--{key} = null; accepted: ")
    *blocks, name = key.split(".")
    lines = [f"{'  ' * depth}{block}:" for depth, block in enumerate(blocks)]
    if blocks[-1] == "objective":
        lines += [f"{'  ' * len(blocks)}init_args:"]
    lines += [f"{'  ' * len(lines)}{name}: null"]
    Path("mine.yaml").write_text("\n".join(lines))
    said = refusal("fit", "--config=orpo", "--config=mine.yaml")
    assert said.startswith(f"mine.yaml:{len(lines)}: {key} = null; accepted: ")
    assert len(said.splitlines()) == 1


def test_other_verbs_refuse_it_too(refusal):
    for verb in ("validate", "data"):
        assert refusal(verb, "--config=orpo", "--data.max_length=null").startswith("--data.max_length = null; accepted")


def test_it_is_taken_where_it_means_something(printed_config):
    options = [f"--{key}=null" for key in (*NEED_NONE, "checkpoint.every_n_steps", "trainer.callbacks")]
    printed_config("fit", "--config=dpo", *options)


@pytest.mark.parametrize("key", ["model.policy", "model.policy.lora", "model.optimizer", "model.schedule"])
def test_a_block_is_refused_too(refusal, key):
    said = f"{key} = null is not a block of settings; set one of them, such as --{key}."
    assert refusal("fit", "--config=orpo", f"--{key}=null").startswith(f"--{said}")
    *blocks, name = key.split(".")
    lines = [*(f"{'  ' * depth}{block}:" for depth, block in enumerate(blocks)), f"{'  ' * len(blocks)}{name}: null"]
    Path("mine.yaml").write_text("\n".join(lines))
    assert refusal("fit", "--config=orpo", "--config=mine.yaml").startswith(f"mine.yaml:{len(lines)}: {said}")


def test_a_class_is_refused_too(refusal):
    for key in ("model", "model.objective"):
        assert refusal("fit", "--config=orpo", f"--{key}=null") == f"--{key} needs a value"
    Path("mine.yaml").write_text("model:\n  objective: null\n")
    assert refusal("fit", "--config=orpo", "--config=mine.yaml") == "mine.yaml:2: model.objective needs a value"
