"""--config takes a path or the short name of a shipped configuration."""

from pathlib import Path

import pytest
import yaml

from orpo_lightning.command_line import config_files
from orpo_lightning.command_line.config_files import find_config, read_keys, shipped_configs

SHIPPED = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["orpo", "orpo.yaml", str(SHIPPED / "orpo.yaml")])
def test_a_configuration_is_found_by_short_name_and_by_path(printed_config, name):
    printed = yaml.safe_load(printed_config("fit", "--config", name))
    assert printed["trainer"]["default_root_dir"] == "runs/orpo"


def test_every_shipped_configuration_has_its_short_name():
    assert set(shipped_configs()) == {
        path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml")
    }


def test_in_an_installed_package_they_are_inside_it(monkeypatch, tmp_path):
    inside = tmp_path / "package" / "configs"
    (inside / "data").mkdir(parents=True)
    (inside / "data" / "mine.yaml").write_text("data: {}\n")
    monkeypatch.setattr(config_files, "_HOMES", (inside.parent, SHIPPED.parent))
    assert find_config("data/mine") == inside / "data" / "mine.yaml"
    with pytest.raises(ValueError, match="--config orpo: no such file; shipped: data/mine"):
        find_config("orpo")


def test_a_file_of_the_users_goes_before_a_shipped_one_of_the_same_name(printed_config):
    Path("orpo").write_text("data: {limit: 5}\n")
    assert yaml.safe_load(printed_config("fit", "--config", "orpo"))["data"]["init_args"]["limit"] == 5


def test_layers_are_merged_and_later_ones_win(printed_config):
    Path("mine.yaml").write_text("model: {policy: {lora: {r: 4}}, optimizer: {lr: 0.5}}\n")
    layers = ["--config", "dpo", "--config=model/lora", "-c", "mine.yaml"]
    module = yaml.safe_load(printed_config("fit", *layers, "--model.optimizer.lr=0.25"))["model"]["init_args"]
    assert module["objective"]["class_path"] == "orpo_lightning.DPO"
    assert module["policy"]["lora"]["r"] == 4
    assert module["policy"]["lora"]["alpha"] == 32
    assert module["optimizer"]["lr"] == 0.25


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "data", "estimate"])
def test_every_verb_that_reads_a_configuration_takes_short_names(printed_config, verb):
    assert yaml.safe_load(printed_config(verb, "--config", "kto"))["model"]["init_args"]["objective"]["class_path"] == (
        "orpo_lightning.KTO"
    )


def test_the_printed_configuration_comes_to_itself_when_it_is_read(printed_config):
    printed = printed_config("fit", "--config", "orpo", "--config", "model/lora")
    assert "SUPPRESS" not in printed
    Path("printed.yaml").write_text(printed)
    assert printed_config("fit", "--config", "printed.yaml") == printed


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("orop", "--config orop: no such file; did you mean orpo? shipped: "),
        ("lora", "--config lora: no such file; did you mean model/lora? shipped: "),
        ("model/loar.yaml", "--config model/loar.yaml: no such file; did you mean model/lora? shipped: "),
        ("gone.yaml", "--config gone.yaml: no such file; shipped: dpo, "),
        ("a" * 300, f"--config {'a' * 300}: no such file; shipped: dpo, "),
        (".", "--config . is a folder; accepted: a file, or one of: dpo, "),
    ],
)
def test_an_unknown_one_is_answered_with_the_nearest_and_the_list(refusal, name, said):
    message = refusal("fit", "--config", name)
    assert message.startswith(said)
    assert message.endswith(", ".join(shipped_configs()))
    assert len(message.splitlines()) == 1


def test_lines_of_keys_are_told_through_lists_and_class_paths(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("trainer:\n  callbacks+:\n  - class_path: A\n    init_args:\n      k: 1\n")
    assert read_keys(path) == {
        "trainer": 1,
        "trainer.callbacks": 2,
        "trainer.callbacks.class_path": 3,
        "trainer.callbacks.k": 5,
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "data:\n", "model:\ndata:\n\ntrainer:\n"])
def test_a_layer_that_holds_nothing_changes_nothing(printed_config, text):
    Path("empty.yaml").write_text(text)
    assert printed_config("fit", "--config=orpo", "--config=empty.yaml") == printed_config("fit", "--config=orpo")


def test_a_block_that_is_left_empty_changes_nothing(printed_config):
    Path("mine.yaml").write_text("model:\ntrainer: {max_epochs: 7}\n")
    printed = yaml.safe_load(printed_config("fit", "--config=dpo", "--config=mine.yaml"))
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["model"]["init_args"]["objective"]["class_path"] == "orpo_lightning.DPO"


@pytest.mark.parametrize("verb", ["fit", "validate", "data"])
@pytest.mark.parametrize("block", ["model", "data", "trainer"])
def test_a_block_that_is_null_is_refused_where_it_stands(refusal, block, verb):
    Path("mine.yaml").write_text(f"seed_everything: 1\n{block}: null\n")
    assert refusal(verb, "--config=orpo", "--config=mine.yaml") == (
        f"mine.yaml:2: {block} = null is not a block of settings; leave it out"
    )


def test_a_key_that_is_there_twice_is_refused_with_both_lines(refusal):
    Path("mine.yaml").write_text("model:\n  optimizer:\n    lr: 1\n    weight_decay: 0\n    lr: 2\n")
    assert refusal("fit", "--config=orpo", "--config=mine.yaml") == (
        "mine.yaml:5: model.optimizer.lr is set in line 3 already; keep one"
    )
    Path("mine.yaml").write_text("data: {limit: 1}\ndata:\n  seed: 1\n")
    assert refusal("data", "--config=mine.yaml") == "mine.yaml:2: data is set in line 1 already; keep one"


def test_a_mistake_is_placed_by_the_path_that_leads_to_the_file_from_here(refusal, monkeypatch, tmp_path):
    shipped = tmp_path / "elsewhere" / "configs"
    shipped.mkdir(parents=True)
    for path in (shipped / "bad.yaml", Path("mine/bad.yaml")):
        path.parent.mkdir(exist_ok=True)
        path.write_text("data: {limit: many}\n")
    monkeypatch.setattr(config_files, "_HOMES", (shipped.parent,))
    assert refusal("fit", "--config=bad").startswith(f"{shipped}/bad.yaml:1: data.limit = many")
    assert refusal("fit", "--config=mine/bad.yaml").startswith("mine/bad.yaml:1: data.limit = many")


def test_what_is_no_text_of_yaml_is_refused_in_one_line(refusal):
    Path("mine.yaml").write_text("data:\n  limit: \x07\n")
    assert refusal("fit", "--config=mine.yaml").startswith(
        "mine.yaml: not valid YAML: unacceptable character #x0007: special characters are not allowed"
    )


def test_a_long_value_is_not_told_whole(refusal):
    said = refusal("fit", "--config=orpo", f"--model.optimizer={'a' * 5000}")
    assert said.startswith("--model.optimizer = aaa")
    assert said.endswith("is not a block of settings; set one of them, such as --model.optimizer.lr 1e-5")
    assert len(said) < 2100


ENDLESS = "mine.yaml: not valid YAML: a part holds itself, or there are more than 100,000 parts"
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
HUGE = "1" * 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config: 1", "mine.yaml:1: config names files on the command line, and is no setting; leave it out"),
        (
            "data:\n  limit: !!float x",
            "mine.yaml:2: data.limit = x cannot be read: could not convert string to float: 'x'",
        ),
        ("data:\n  train: 2026-13-01", "mine.yaml:2: data.train = 2026-13-01 cannot be read: month must be in 1..12"),
        ("data: {seed: !x y}", "mine.yaml:1: data.seed = y cannot be read: could not determine a constructor for "),
        ("data:\n  limit: ${data}", "mine.yaml:2: data.limit: ${data} refers to itself: it stands inside of data"),
        ("data:\n  limit: &a [*a]", ENDLESS),
        ("data:\n  limit: &a {b: *a}", ENDLESS),
        (LAUGHS, ENDLESS),
        (f"data: {'[' * 1000}", "mine.yaml: not valid YAML: nested too deeply"),
        (f"data:\n  limit: {HUGE}", f"mine.yaml:2: data.limit = {HUGE} cannot be read: there is no such number"),
    ],
    ids=range(10),
)
def test_a_value_that_is_none_is_placed(refusal, text, said):
    Path("mine.yaml").write_text(text)
    assert refusal("fit", "--config=orpo", "--config=mine.yaml").startswith(said)


@pytest.mark.parametrize(
    "value",
    [
        "&a [*a]",
        "[&a [*a]]",
        "{x: &a {y: *a}}",
        "!!int x",
        "2026-13-01",
        "[2026-13-01]",
        "[" * 1000,
        "[" * 200 + "]" * 200,
    ],
    ids=range(8),
)
def test_a_typed_value_that_is_none_is_named(refusal, value):
    said = refusal("fit", "--config=orpo", f"--data.limit={value}")
    assert said.startswith("--data.limit")
    assert "\n" not in said


def test_a_setting_inside_of_a_value_is_none(refusal):
    said = "--model.optimizer.lr.x is not a setting; model.optimizer.lr is a single value"
    assert refusal("fit", "--config=orpo", "--model.optimizer.lr.x=1") == said
