"""Text for a terminal: commands that a shell takes, times, and nothing that moves the cursor."""

import subprocess

import pytest

from orpo_lightning.summary.words import command_lines, cut, duration, short_path


@pytest.mark.parametrize("width", [30, 76, 500])
def test_a_broken_command_is_the_same_words_to_a_shell(width):
    words = ["orpo-lightning", "fit", "--config", "runs/my run/config.yaml", "--data.train", "it's.jsonl", "--x=$HOME"]
    lines = command_lines(words, width)
    found = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == words
    if width == 76:
        assert all(len(line) <= width for line in lines)


def test_a_value_stays_on_the_line_of_its_option():
    lines = command_lines(["orpo-lightning", "fit", "--model.objective", "DPO", "--data.train", "train.jsonl"], 40)
    assert lines == ["orpo-lightning fit \\", "  --model.objective DPO \\", "  --data.train train.jsonl"]


def test_a_long_text_is_cut_and_marked():
    lines = cut("word " * 100, width=20, lines=3)
    assert len(lines) == 3
    assert all(len(line) <= 20 for line in lines)
    assert lines[-1].endswith("…")


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_a_text_of_nothing_is_said_to_be_blank(text):
    assert cut(text, 20, 3) == ["(blank)"]


def test_what_would_move_the_cursor_is_shown_and_not_obeyed():
    (line,) = cut("\x1b[2J\rgone", 40, 1)
    assert "\x1b" not in line
    assert "gone" in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.9, "1 h 0 min"), (90000, "25 h 0 min")],
)
def test_times_are_told_in_their_units(seconds, text):
    assert duration(seconds) == text


def test_a_path_is_told_as_one_types_it_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "runs" / "orpo") == "runs/orpo"
    assert short_path(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")
