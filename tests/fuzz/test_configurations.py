"""Whatever is typed or stands in a configuration: it is parsed, or refused in one line that says where it is."""

import contextlib
import io
import sys

import pytest
from fuzzing import MANY, at_every_length, for_all
from hypothesis import strategies as st

from orpo_lightning import Objective, OptimizerConfig, PreferenceDataModule, ScheduleConfig, secrets
from orpo_lightning.cli import CLI, SaveConfig, make_cli
from orpo_lightning.command_line.config_files import read_keys
from orpo_lightning.command_line.interpolation import MODE, refer_by_typed_keys
from orpo_lightning.command_line.parser import Parser
from orpo_lightning.command_line.private_parts import verbs_of
from orpo_lightning.secrets import hide_values, hide_words, remember_words

KEYS = (
    *("data.limit", "data.train", "data.val", "data.seed", "data.columns", "data.overlong", "data.shuffle", "data"),
    *("model.objective", "model.objective.lambda_", "model.objective.beta", "model.optimizer.lr", "model.optimizer"),
    *("model.schedule.warmup", "model.schedule.name", "model", "seed_everything", "data.filters", "data.format"),
    *("data.limti", "dtaa.limit", "model.objective.lamda_", "model.optimizer.lr.x", "init_args", "class_path", ""),
    *("model.objective.class_path", "model.objective.init_args", "data.columns.prompt", "a", "a.b", ".", "..", "1"),
    *("config", "help", "data.limit+", "data.filters+", "猫", "a b", "<<", "true", "null", "-", "--", "*", "&a"),
)
VALUES = (
    *(
        "1",
        "0",
        "-1",
        "1e9999",
        "-1e9999",
        ".inf",
        ".nan",
        "1" * 5000,
        "9" * 30,
        "0x1F",
        "0o17",
        "1_000",
        "1e-5",
        "0.5",
    ),
    *(
        "true",
        "null",
        "~",
        "''",
        '""',
        "no",
        "2026-11-30",
        "12:30:45",
        "a",
        "a b",
        "'",
        '"',
        "a: b",
        "- a",
        "猫",
        "a" * 5000,
    ),
    *(
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
        "[[[[]]]]",
        "{limit: 3}",
        "{path: sample, weight: -1}",
        "[",
        "{",
        "[" * 1000,
        "[&a [*a]]",
        "{a: &a {b: *a}}",
        "[2026-13-01]",
        "]",
        "}",
        ":",
        ",",
    ),
    *(
        "sample",
        "DPO",
        "ORPO",
        "orpo",
        "orpo_lightning.DPO",
        "os.system",
        "{class_path: DPO}",
        "{class_path: os.system}",
    ),
    *(
        "{class_path: os.system}",
        "{class_path: DPO, init_args: {beta: x}}",
        "{class_path: 5}",
        "{class_path: a.b.C, init_args: {}}",
    ),
    *("${data.seed}", "${data.limit}", "${nothing}", "${", "${}", "}", "$", "${oc.env:NOT_SET_AT_ALL}", "${data}"),
    *("${oc.env:HOME}", "${oc.decode:${data.seed}}", "${setting:data.seed}", "${a.b.${data.seed}}", "\\${x}", "$${x}"),
    *(
        "&a 1",
        "*a",
        "&a [*a]",
        "&a {b: *a}",
        "!!python/object:os.system {}",
        "!!binary aGk=",
        "!!int x",
        "!x y",
        "|",
        ">-",
    ),
    *(
        "%",
        "@",
        "`",
        "? a",
        "# a",
        "--- ",
        "...",
        "\t1",
        "1\t",
        "a\x00b",
        "\x1b[31m",
        "\u2028",
        "\ufeff1",
        "\x85",
        "\x07",
    ),
)
TOKENS = (
    "\t",
    "\n",
    "  ",
    ": ",
    "- ",
    "\x00",
    "\xff",
    "&a",
    "*a",
    "<<: *a",
    "---",
    "\r",
    "#",
    "'",
    "{",
    "[",
    "?",
    "!",
    "%",
)
values = st.sampled_from(VALUES)
keys = st.sampled_from(KEYS)
words = st.lists(
    st.one_of(
        st.tuples(keys, values).map(lambda pair: [f"--{pair[0]}={pair[1]}"]),
        st.tuples(keys, values).map(lambda pair: [f"--{pair[0]}", pair[1]]),
        keys.map(lambda key: [f"--{key}"]),
        values.map(lambda value: [value]),
    ),
    max_size=4,
).map(lambda parts: [word for part in parts for word in part])


def nested(pairs):
    """Keys with dots and their values as a text of YAML: blocks inside each other, without looking at the values."""
    tree = {}
    for key, value in pairs:
        *blocks, last = key.split(".")
        place = tree
        for block in blocks:
            place = place.setdefault(block, {}) if isinstance(place.get(block, {}), dict) else {}
        place[last] = value
    return written(tree)


def written(tree, indent=""):
    parts = []
    for key, value in tree.items():
        rest = f"\n{written(value, indent + '  ')}" if isinstance(value, dict) else f" {value}\n"
        parts.append(f"{indent}{key}:{rest}")
    return "".join(parts)


@st.composite
def texts(draw):
    """A configuration, with up to three pieces put into it or parts of it taken away or doubled."""
    pairs = draw(st.lists(st.tuples(keys, values), max_size=5))
    text = draw(st.sampled_from([nested, lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs)]))(pairs)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(text)))
        change = draw(st.sampled_from(["put", "cut", "drop", "double"]))
        if change == "put":
            text = text[:place] + draw(st.sampled_from(TOKENS)) + text[place:]
        elif change == "cut":
            text = text[:place]
        elif change == "drop":
            text = text[:place] + text[place + draw(st.integers(1, 5)) :]
        else:
            text += text[place:]
    return text.encode("latin-1" if draw(st.booleans()) else "utf-8", errors="replace")


class MadeError(Exception):
    """The parser is made."""


@pytest.fixture(scope="module")
def small():
    """A parser of some settings of a run: that of all takes a second for a line."""
    refer_by_typed_keys()
    parser = Parser(parser_mode=MODE)
    parser.add_config_argument()
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_class_arguments(PreferenceDataModule, "data", instantiate=False)
    parser.add_argument("--model.objective", type=Objective, default={"class_path": "orpo_lightning.ORPO"})
    parser.add_class_arguments(OptimizerConfig, "model.optimizer", instantiate=False)
    parser.add_class_arguments(ScheduleConfig, "model.schedule", instantiate=False)
    return parser


@pytest.fixture(scope="module")
def whole():
    """The parser of the command."""
    made = []

    class Parsing(CLI):
        def parse_arguments(self, parser, args):
            made.append(parser)
            raise MadeError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["orpo-lightning", "fit"])
        with pytest.raises(MadeError):
            make_cli(Parsing, save_config_callback=SaveConfig)
    return made[0]


def check_parsing(parser, words):
    """The settings of a command line, or the one line by which it is refused."""
    for each in (parser, *verbs_of(parser).values()):
        each.files.clear()
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            return parser.parse_args(words)
    except SystemExit as end:
        code = end.code
    if code == 0:  # the help is asked for
        assert printed.getvalue()
        return None
    assert code == 2
    check_line(said.getvalue())
    return said.getvalue()


def check_line(said, where=""):
    assert said.startswith(f"orpo-lightning: {where}")
    assert said.endswith("\n")
    assert len(said.splitlines()) == 1, said
    assert len(said) < 2500, "nobody reads that"
    assert said.removesuffix("\n").isprintable(), said
    for of_a_program in ("Traceback", "Parser key", "Does not validate", "NestedArg", "object at 0x"):
        assert of_a_program not in said, said


@at_every_length
def test_keys_of_a_file_are_read_with_their_lines_or_it_is_refused_by_name(tmp_path, examples):
    path = tmp_path / "mine.yaml"

    def check(content):
        path.write_bytes(content)
        try:
            found = read_keys(path)
        except ValueError as error:
            check_line(f"orpo-lightning: {error}\n", str(path))
        else:
            lines = len(content.decode().replace("\x85", "\n").splitlines())
            assert all(1 <= line <= lines for line in found.values())

    for_all(examples, check, texts())


@at_every_length
def test_a_file_is_parsed_or_refused_in_a_line(tmp_path, small, examples):
    path = tmp_path / "mine.yaml"

    def check(content):
        path.write_bytes(content)
        check_parsing(small, ["--config", str(path)])

    for_all(examples, check, texts())


@at_every_length
@pytest.mark.usefixtures("only_built_in_objectives")
def test_a_command_line_is_parsed_or_refused_in_a_line(small, examples):
    for_all(examples, lambda words: check_parsing(small, words), words)


@at_every_length
def test_whatever_is_typed_the_secrets_of_a_command_line_are_looked_for(monkeypatch, examples):
    monkeypatch.setattr(secrets, "_values", set())
    monkeypatch.setattr(secrets, "_variables", set())
    monkeypatch.setattr(secrets, "_words", set())

    def check(words):
        remember_words(words)
        typed = ["--api_key", "5wordf1sh", "--x={password: 5wordf1sh}", "--y=[Authorization: Bearer 5wordf1sh]"]
        hidden = hide_words([*words, *typed])
        assert len(hidden) == len(words) + len(typed)
        assert hide_values(hide_values({"any": words})) == hide_values({"any": words})
        assert "5wordf1sh" not in str(hidden)

    for_all(examples, check, words)


@pytest.mark.slow
def test_the_whole_command_parses_or_refuses_in_a_line(tmp_path, whole, monkeypatch):
    path = tmp_path / "mine.yaml"

    def check(content, words):
        path.write_bytes(content)
        monkeypatch.setattr(sys, "argv", ["orpo-lightning", "fit", "--config", str(path), *words])
        check_parsing(whole, sys.argv[1:])

    for_all(MANY // 50, check, texts(), words)
