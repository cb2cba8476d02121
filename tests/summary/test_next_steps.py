"""The commands to try next are those of the present run."""

import pytest
import yaml

from orpo_lightning.summary.next_steps import next_steps


def config(objective="ORPO", data=None, **arguments):
    return {
        "model": {
            "class_path": "orpo_lightning.PreferenceModule",
            "init_args": {"objective": {"class_path": f"orpo_lightning.{objective}", "init_args": arguments}},
        },
        "data": {"class_path": "orpo_lightning.PreferenceDataModule", "init_args": data or {"train": "sample"}},
    }


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config()))
    return folder


def commands(folder, settings, is_complete=True, has_policy=True):
    steps = next_steps(folder, settings, is_complete=is_complete, has_policy=has_policy)
    return [" ".join(step.words) for step in steps]


def test_data_of_the_users_own_is_used_whole(run):
    settings = {**config(data={"train": "sample", "limit": 300}), "trainer": {"max_steps": 15}}
    (command,) = (each for each in commands(run, settings) if "--data.train" in each)
    assert "--data.limit null --trainer.max_steps -1 --trainer.max_epochs 1" in command
    assert "null" not in next(each for each in commands(run, config()) if "--data.train" in each)


def test_the_model_is_where_the_configuration_says(run):
    (run / "final").mkdir()
    settings = {**config(), "export": {"folder": "final"}}
    assert "generate --model runs/mine/final --prompts" in commands(run, settings)[-1]


def test_another_objective_on_the_same_data_goes_to_a_folder_of_its_own(run):
    assert commands(run, config("ORPO", lambda_=0.1))[0] == (
        "orpo-lightning fit --config runs/mine/config.yaml --model.objective DPO --trainer.default_root_dir runs/dpo"
    )
    assert "--model.objective ORPO --trainer.default_root_dir runs/orpo" in commands(run, config("DPO"))[0]


@pytest.mark.parametrize(("now", "then"), [(0.1, "0.2"), (0.2, "0.1"), (1.0, "0.2")])
def test_another_lambda_is_another_one(run, now, then):
    assert any(f"--model.objective.lambda_ {then} " in each for each in commands(run, config("ORPO", lambda_=now)))


@pytest.mark.parametrize("objective", ["DPO", "SFT", "KTO"])
def test_an_objective_without_lambda_is_offered_none(run, objective):
    assert not any("lambda_" in each for each in commands(run, config(objective)))


def test_single_responses_are_not_offered_an_objective_of_pairs(run):
    assert not any("--model.objective" in each for each in commands(run, config("KTO")))


def test_settings_of_the_present_data_are_undone_for_data_of_ones_own(run):
    data = {"train": "a.jsonl", "format": "text", "columns": {"prompt": "question"}}
    (own,) = (each for each in commands(run, config(data=data)) if "--data.train" in each)
    assert "--data.format null --data.columns null" in own
    (own,) = (each for each in commands(run, config()) if "--data.train" in each)
    assert "null" not in own


def test_a_run_in_the_working_folder_has_its_successors_under_runs(run, monkeypatch):
    monkeypatch.chdir(run)
    assert commands(run, config())[0] == (
        "orpo-lightning fit --config config.yaml --model.objective DPO --trainer.default_root_dir runs/dpo"
    )


def test_one_generates_from_the_model_folder_or_else_from_a_checkpoint(run):
    assert not any("generate" in each for each in commands(run, config()))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert "generate --model runs/mine --prompts" in commands(run, config())[-1]
    (run / "model").mkdir()
    assert "generate --model runs/mine/model --prompts" in commands(run, config())[-1]


def test_a_run_without_a_configuration_offers_no_command_that_needs_one(run):
    (run / "config.yaml").unlink()
    assert commands(run, {}) == []


def test_a_module_without_an_objective_is_offered_none(run):
    assert commands(run, {"model": {"class_path": "toy.Module"}, "data": {"class_path": "toy.Data"}}) == []


def test_from_the_checkpoint_of_another_module_one_cannot_generate(run):
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert not any("generate" in each for each in commands(run, config(), has_policy=False))
