"""A sweep file: what is read of it, and how every mistake is told with its line and what is accepted."""

import math
import re
from textwrap import dedent

import pytest

from orpo_lightning.sweep.distributions import Choice, LogNumbers, Multiples, Numbers, WholeNumbers
from orpo_lightning.sweep.early import EarlyTermination
from orpo_lightning.sweep.file import Metric, read_sweep

HEAD = "program: orpo-lightning\nmethod: {method}\nmetric: {{name: val/pref/accuracies, goal: maximize}}\n"
COMMAND = ["${env}", "${program}", "fit", "${args}", "--config", "orpo"]


@pytest.fixture
def sweep_file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(dedent(text))
        return path

    return write


@pytest.fixture
def parameter(sweep_file):
    """The distribution of a parameter of a file."""

    def read(text, method="random"):
        command = f"command: {COMMAND}\n"
        return read_sweep(sweep_file(f"{HEAD.format(method=method)}{command}parameters:\n  lr: {text}\n")).parameters[
            "lr"
        ]

    return read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{value: 3}", Choice((3,))),
        ("{values: [a, 2, [b, c]]}", Choice(("a", 2, ["b", "c"]))),
        ("{min: 1, max: 4}", WholeNumbers(1, 4)),
        ("{distribution: int_uniform, min: 1, max: 4}", WholeNumbers(1, 4)),
        ("{min: 1, max: 4.0}", Numbers(1.0, 4.0)),
        ("{distribution: uniform, min: 1, max: 4}", Numbers(1.0, 4.0)),
        ("{distribution: q_uniform, min: 0.1, max: 0.5, q: 0.1}", Multiples(0.1, 0.5, 0.1)),
        ("{distribution: q_uniform, min: 1, max: 4}", Multiples(1, 4, 1)),
        ("{distribution: log_uniform_values, min: 0.01, max: 3}", LogNumbers(0.01, 3.0)),
        ("{distribution: log_uniform, min: -2, max: 1}", LogNumbers(math.exp(-2), math.e)),
        ("{distribution: constant, value: null}", Choice((None,))),
        ("{distribution: categorical, values: [true]}", Choice((True,))),
    ],
)
def test_a_parameter_is_drawn_from_what_its_keys_say(parameter, text, expected):
    assert parameter(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "{distribution: normal, mu: 0, sigma: 1}",
            "lr.distribution = normal is not supported; accepted: constant, cat",
        ),
        ("{mu: 0}", "mu is not supported without an account; accepted: value, values"),
        (
            "{value: 2020-01-01}",
            "lr.value = 2020-01-01 has no value that can be typed; accepted: numbers, true, false,",
        ),
        ("{values: [1, 2020-01-01]}", "lr.values = [1, datetime.date(2020, 1, 1)] has no value that can be typed"),
        (
            "{distribution: log_uniform, min: -1000, max: 1}",
            "lr.min = -1000 is an exponent of e; accepted: -700 to 700",
        ),
        ("{? [a, b] : 1}", "lr has a key that is a list or mapping; accepted: texts as keys"),
        ("{<<: 3, value: 1}", "lr.<< cannot be merged: expected a mapping or list of mappings for merging"),
        ("{distribution: beta}", "lr.distribution = beta is not supported; accepted: constant, categorical, int_unif"),
        ("{values: [1, 2], probabilities: [0.3, 0.7]}", "probabilities is not supported without an account"),
        ("{parameters: {a: {value: 1}}}", "nests; write the parameters with dotted names, such as model.optimizer.lr"),
        ("{min: 3, max: 1}", "lr.min = 3 is not below max = 1"),
        ("{min: 1}", "lr says no values; accepted: value, values, or min and max"),
        ("{distribution: uniform, min: 1}", "lr has no max, which uniform needs"),
        ("{values: 3}", "lr.values = 3 is not a list of values; accepted: [A, B, ...]"),
        ("{values: []}", "is not a list of values"),
        ("{min: 1e-6, max: 1e-3}", "'1e-6' is not a number in YAML (write 1.0e-6)"),
        ("{distribution: int_uniform, min: 0.5, max: 3}", "min = 0.5 is not a whole number, which int_uniform needs"),
        ("{distribution: log_uniform_values, min: 0, max: 3}", "min = 0 has no logarithm; accepted: more than 0"),
        (
            "{distribution: log_uniform, min: 0, max: 3000}",
            "lr.max = 3000 is an exponent of e; accepted: -700 to 700; for",
        ),
        ("{distribution: q_uniform, min: 0, max: 3, q: 0}", "q = 0 is out of range; accepted: more than 0"),
        ("{value: 3, min: 1}", "lr.min is not for constant; accepted: value"),
        ("{vals: [1]}", "lr.vals is not a key of it; did you mean values?"),
        ("3", "lr is not a mapping"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused_with_its_line(parameter, text, said):
    with pytest.raises(ValueError, match=f"mine.yaml:6: parameters.lr.*{re.escape(said.removeprefix('lr'))}"):
        parameter(text)


@pytest.mark.parametrize("text", ["{min: 0.1, max: 1.0}", "{distribution: log_uniform_values, min: 0.1, max: 1}"])
def test_a_grid_needs_values_that_can_be_counted(parameter, text):
    with pytest.raises(ValueError, match=r"lr has no values that a grid can go through; accepted: constant, categori"):
        parameter(text, method="grid")


def test_a_grid_goes_through_whole_numbers_with_both_ends_and_through_multiples_without_the_last(parameter):
    def points(text):
        found = parameter(text, method="grid")
        return [found.point(place) for place in range(found.count)]

    assert points("{min: 1, max: 4}") == [1, 2, 3, 4]
    assert points("{distribution: q_uniform, min: 0.1, max: 0.4, q: 0.1}") == [0.1, 0.2, 0.3]


def test_a_range_is_never_written_out(sweep_file, parameter):
    huge = "{min: 0, max: 1000000000000}"
    assert parameter(huge, method="grid").count == 10**12 + 1
    assert all(parameter(text).is_varied for text in (huge, "{min: 0.1, max: 1.0}", "{values: [1, 2]}"))
    assert not parameter("{value: 1}").is_varied


def test_settings_are_merged_as_the_client_of_wandb_does(sweep_file):
    file = sweep_file(
        f"{HEAD.format(method='random')}command: {COMMAND}\nparameters:\n"
        "  a: &range {min: 0.1, max: 1.0}\n  b: {<<: *range, max: 2.0}\n  c: {max: 3.0, <<: [*range, {q: 0.1}]}\n"
    )
    assert read_sweep(file).parameters == {
        **{"a": Numbers(0.1, 1.0), "b": Numbers(0.1, 2.0)},
        "c": Multiples(0.1, 3.0, 0.1),
    }


@pytest.mark.parametrize(("ours", "theirs"), [("1", "true"), ("1", "1.0"), ("[1]", "[true]")])
def test_sweeps_are_the_same_where_their_values_are_typed_the_same(sweep_file, ours, theirs):
    def read(values):
        return read_sweep(
            sweep_file(
                f"method: grid\nprogram: orpo-lightning\ncommand: {COMMAND}\nparameters: {{a: {{value: {values}}}}}"
            )
        )

    assert read(ours).differences(read(ours)) == []
    assert read(ours).differences(read(theirs)) == ["parameters"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "${args} --model.objective.beta=0.3",
            "2: command has --model.objective.beta after ${args}, which would set mod",
        ),
        ("--ckpt_path=old.ckpt ${args}", "2: command has --ckpt_path=old.ckpt; accepted: last"),
        ("${args} --ckpt_path old.ckpt", "2: command has --ckpt_path=old.ckpt; accepted: last"),
        ("--model.objective.beta=0.3 ${args} --ckpt_path=last --trainer.default_root_dir=x", None),
    ],
)
def test_a_command_that_takes_the_place_of_what_the_sweep_sets_is_refused(sweep_file, words, said):
    text = f"program: orpo-lightning\ncommand: [orpo-lightning, fit, {', '.join(words.split())}]\nmethod: grid\n"
    file = sweep_file(
        f"{text}parameters: {{model.objective.beta: {{values: [0.1, 1]}}}}\n".replace("${args}", "'${args}'")
    )
    if said is None:
        assert read_sweep(file).grid_size == 2
    else:
        with pytest.raises(ValueError, match=re.escape(f"mine.yaml:{said}")):
            read_sweep(file)


@pytest.mark.parametrize("name", ["ckpt_path", "trainer.default_root_dir"])
def test_what_the_sweep_sets_is_no_parameter(sweep_file, name):
    file = sweep_file(f"method: grid\nparameters:\n  a: {{value: 1}}\n  {name}: {{values: [a, b]}}\n")
    with pytest.raises(
        ValueError, match=f"mine.yaml:4: parameters.{name} is set by the sweep itself; accepted: the opt"
    ):
        read_sweep(file)


def test_everything_that_a_file_says_is_in_its_record(sweep_file):
    sweep = read_sweep(
        sweep_file("""
        name: strength
        description: what lambda does
        project: orpo
        entity: someone
        program: orpo-lightning
        method: bayes
        run_cap: 30
        metric: {name: val/nll_response, goal: minimize, target: 1.5}
        early_terminate: {type: hyperband, min_iter: 2, eta: 2, strict: false}
        parameters:
          model.objective.lambda_: {min: 0.1, max: 1.0}
          config: {values: [orpo, dpo]}
        command: [python, -m, orpo_lightning, fit, "${args}"]
        """)
    )
    assert (sweep.name, sweep.method, sweep.run_cap, sweep.grid_size) == ("strength", "bayes", 30, None)
    assert sweep.metric == Metric("val/nll_response", "minimize", 1.5)
    assert sweep.early_termination.bands[:4] == (2, 4, 8, 16)
    assert (sweep.early_termination.eta, sweep.early_termination.strict) == (2, False)
    # in the order of W&B, by name: a class comes before its arguments
    assert list(sweep.parameters) == ["config", "model.objective.lambda_"]
    assert sweep.command.words == ("fit", "${args}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: grid\nprogram: [", "not valid YAML"),
        ("", "mine.yaml: the file is empty"),
        ("- 1", "mine.yaml:1: the file is not a mapping"),
        ("program: orpo-lightning", "has no method; accepted: grid, random, bayes"),
        ("method: bohb", "mine.yaml:1: method = bohb is not one; accepted: grid, random, bayes"),
        ("method: grid\nmethod: random", "mine.yaml:2: method is set in line 1 already"),
        ("method: grid\nscheduler: {engine: optuna}", "mine.yaml:2: scheduler is not supported without an account"),
        ("method: grid\nparamters: {}", "mine.yaml:2: paramters is not a key of it; did you mean parameters?"),
        ("method: bayes", "method needs a metric; add metric: {name: val/pref/accuracies, goal: maximize}"),
        ("method: grid", "has no parameters; accepted: names of settings"),
        ("method: grid\nparameters: {}", "parameters is empty"),
        ("method: grid\ncommand: fit\nparameters: {a: {value: 1}}", "command = 'fit' is not a list of words"),
        ("method: grid\nrun_cap: 0", "run_cap = 0 is out of range; accepted: a whole number from 1 on"),
        ("method: grid\nmetric: {goal: maximize}", "metric has no name"),
        ("method: grid\nmetric: {name: a, goal: max}", "metric.goal = max is not one; accepted: minimize, maximize"),
        ("method: grid\nmetric: {name: a, impute: best}", "metric.impute is not supported without an account"),
        ("method: grid\nearly_terminate: {type: hyperband, min_iter: 2}", "early_terminate needs a metric"),
        (
            "method: grid\nearly_terminate: {type: median}",
            "early_terminate.type = median is not one; accepted: hyperband",
        ),
        ("method: grid\nearly_terminate: {type: hyperband}", "early_terminate has no band"),
        ("method: grid\nearly_terminate: {type: hyperband, max_iter: 9}", "max_iter needs s"),
        ("method: grid\nearly_terminate: {type: hyperband, max_iter: 2, s: 2}", "max_iter = 2 has no band below it"),
        ("method: grid\nearly_terminate: {type: hyperband, min_iter: 2, eta: 1}", "eta = 1 is out of range"),
        ("method: grid\nearly_terminate: {type: hyperband, min_iter: 2, strict: 1}", "strict = 1 is not one"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_what_is_accepted(sweep_file, text, said):
    with pytest.raises(ValueError, match=re.escape(said)) as refusal:
        read_sweep(sweep_file(text))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (None, None),
        ("${env} ${interpreter} -m orpo_lightning fit ${args}", ("fit", "${args}")),
        ("${env} ${program} fit ${args} --config orpo", ("fit", "${args}", "--config", "orpo")),
        ("/usr/bin/env python3.11 -m orpo_lightning fit ${args}", ("fit", "${args}")),
        ("/opt/bin/orpo-lightning fit ${args} --x=${envvar:COLOUR}s", ("fit", "${args}", "--x=blues")),
        ("${program} fit ${args} --x=a/${oc.env:COLOUR}", ("fit", "${args}", "--x=a/${oc.env:COLOUR}")),
    ],
)
def test_the_command_is_a_fit_of_this_program_by_any_of_its_names(sweep_file, monkeypatch, command, words):
    monkeypatch.setenv("COLOUR", "blue")
    given = f"command: {command.split()}" if command else ""
    file = sweep_file(f"{HEAD.format(method='grid')}{given}\nparameters: {{a: {{values: [1, 2]}}}}\n")
    if words is None:  # W&B's own default runs the program with the parameters alone
        with pytest.raises(ValueError, match="runs the verb"):
            read_sweep(file)
    else:
        assert read_sweep(file).command.words == words


def test_a_secret_in_the_environment_is_no_mistake_of_a_command(sweep_file, monkeypatch):
    monkeypatch.setenv("MY_KEY", "abc")
    command = ["${program}", "fit", "${args}", "--logger.api_key=${envvar:MY_KEY}", "--logger.token=${oc.env:MY_KEY}"]
    file = sweep_file(f"{HEAD.format(method='grid')}command: {command}\nparameters: {{a: {{values: [1, 2]}}}}\n")
    assert read_sweep(file).command.words[2:] == ("--logger.api_key=abc", "--logger.token=${oc.env:MY_KEY}")


def test_a_secret_is_no_parameter(sweep_file):
    file = sweep_file(f"{HEAD.format(method='grid')}parameters: {{logger.api_key: {{values: [abc, def]}}}}\n")
    with pytest.raises(ValueError, match=r"logger\.api_key is a secret that the folder of the") as refusal:
        read_sweep(file)
    assert "abc" not in str(refusal.value)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python train.py ${args}", "another program; accepted: the words ${env} ${program} fit ${args}"),
        ("${program} data ${args}", "the verb data"),
        ("${program} fit", "no ${args}"),
        ("${program} fit ${args_no_hyphens}", "${args_no_hyphens}, which a fit cannot read; accepted: ${args}"),
        ("${program} fit ${args_json_file}", "${args_json_file}, which a fit cannot read"),
        ("${program} fit ${args} ${envvar:NOT_SET_AT_ALL}", "the environment variable NOT_SET_AT_ALL"),
        ("${program} fit ${args} --logger.api_key=abc", "has --logger.api_key, a secret that the folder of the sweep"),
        ("${program} fit ${args} --logger.api_key abc", "has --logger.api_key, a secret that the folder of the sweep"),
        ("${program} fit ${args} --url=https://me:abc@example.com", "has --url, a secret that the folder"),
        ("${program} fit ${args} --url=https://example.com?token=abc", "has --url, a secret that the folder"),
    ],
)
def test_another_command_is_refused(sweep_file, command, said):
    file = sweep_file(
        f"{HEAD.format(method='grid')}command: {command.split()}\nparameters: {{a: {{values: [1, 2]}}}}\n"
    )
    with pytest.raises(ValueError, match=f"mine.yaml:4: command .*{re.escape(said)}"):
        read_sweep(file)


def test_bands_are_counted_up_from_the_first_or_down_from_the_last(sweep_file):
    def bands(text):
        head = f"{HEAD.format(method='random')}command: {COMMAND}\nparameters: {{a: {{values: [1]}}}}\n"
        return read_sweep(sweep_file(f"{head}early_terminate: {{type: hyperband, {text}}}\n")).early_termination

    assert bands("min_iter: 3").bands[:3] == (3, 9, 27)
    assert bands("max_iter: 27, s: 2") == EarlyTermination((3, 9), 3, strict=True)
    assert bands("max_iter: 8, s: 9, eta: 2").bands == (1, 2, 4)
