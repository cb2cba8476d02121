"""A shell that has read the script completes verbs, settings and their values."""

import subprocess
from pathlib import Path

import pytest

ASK = r"""
source script.bash
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
ask=$(complete -p orpo-lightning | sed 's/.*-F \([^ ]*\).*/\1/')
$ask "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def completions(orpo_lightning, capsys):
    """What bash offers for the last of some words."""
    orpo_lightning("completion", "bash")
    Path("script.bash").write_text(capsys.readouterr().out)

    def ask(*words):
        command = ["bash", "--norc", "-c", ASK, "bash", "orpo-lightning", *words]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not result.stderr
        return result.stdout.split()

    return ask


def test_bash_completes_what_a_user_types(completions):
    assert {"fit", "validate", "test", "data", "objectives", "generate", "export"} <= set(completions(""))
    assert completions("val") == ["validate"]
    assert completions("fit", "--data.over") == ["--data.overlong"]
    assert {"--model.objective", "--model.objective.lambda_", "--model.objective.beta"} <= set(
        completions("fit", "--model.obj")
    )
    assert {"ORPO", "DPO", "KTO"} <= set(completions("fit", "--model.objective", ""))
    assert completions("fit", "--data.overlong", "truncate_r") == ["truncate_response"]
    assert {"--summary.prompts", "--summary.enabled"} <= set(completions("fit", "--summary."))
    assert {"--checkpoint.monitor", "--export.folder"} <= set(completions("fit", "--"))
    assert "--trainer.max_epochs" in completions("fit", "--config", "orpo", "--data.limit", "3", "--trainer.max")
    assert not completions("data", "--trainer.max")
    assert "--show" in completions("data", "--s")
    assert "--merge-adapter" in completions("export", "--m")
    assert completions("completion", "b") == ["bash"]


def test_bash_completes_configurations_by_short_name_and_by_path(completions):
    Path("my.yaml").touch()
    assert {"orpo", "dpo", "model/lora", "my.yaml"} <= set(completions("fit", "--config", ""))
    assert set(completions("fit", "--config", "m")) >= {"model/lora", "my.yaml"}


def test_zsh_gets_a_script_with_the_same_settings(orpo_lightning, capsys):
    orpo_lightning("completion", "zsh")
    script = capsys.readouterr().out
    assert script.startswith("#compdef orpo-lightning")
    assert "--data.overlong" in script
    assert "drop truncate_prompt truncate_response error" in script
    assert "_orpo_lightning_configs" in script


def test_an_unknown_shell_is_refused(orpo_lightning, capsys):
    with pytest.raises(SystemExit):
        orpo_lightning("completion", "fish")
    assert "invalid choice: 'fish'" in capsys.readouterr().err
