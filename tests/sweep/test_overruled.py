"""Which options would set what a sweep varies: held against what the parser of a fit makes of them."""

import pytest
import yaml

from orpo_lightning.sweep.distributions import Choice
from orpo_lightning.sweep.overruled import overruled

BETA = {"model.objective.beta": Choice((0.1, 0.5))}
OPTIONS = [
    (["--model.objective.beta=0.3"], True),
    (["--model.objective.beta", "0.3"], True),
    (["--model.objective.init_args.beta=0.3"], True),
    (["--model.init_args.objective.init_args.beta=0.3"], True),
    (["--model.objective.dict_kwargs.beta=0.3"], True),
    (['--model.objective={"class_path": "DPO", "init_args": {"beta": 0.3}}'], True),
    (["--model.objective=DPO"], False),
    (["--model.objective", "orpo_lightning.DPO"], False),
    (["--model.objective.class_path=DPO"], False),
    (["--model=PreferenceModule"], False),
    (["--model.objective.label_smoothing=0.1"], False),
    (["--config=dpo"], False),
    (["--data.limit=8"], False),
]


@pytest.mark.parametrize(("options", "changes"), OPTIONS)
def test_an_option_is_refused_if_and_only_if_the_parser_lets_it_set_what_is_varied(
    orpo_lightning, capsys, options, changes
):
    assert (overruled(options, BETA) is not None) == changes
    with pytest.raises(SystemExit) as end:
        orpo_lightning("fit", "--config=dpo", "--model.objective.beta=0.7", *options, "--print_config")
    out, err = capsys.readouterr()
    assert not end.value.code, err
    assert (yaml.safe_load(out)["model"]["init_args"]["objective"]["init_args"]["beta"] != 0.7) == changes


def test_a_setting_of_a_class_that_is_varied_by_its_name_is_the_same_in_all_trials():
    option = ["--model.objective.beta=0.3"]
    assert overruled(option, {"model.objective": Choice(("DPO", "IPO"))}) is None
    assert overruled(option, {"model.objective": Choice(("DPO", {"class_path": "DPO", "init_args": {"beta": 0.1}}))})


def test_files_are_layers_which_options_win_over_wherever_they_stand():
    assert overruled(["--config=data/sample"], {"config": Choice(("orpo", "dpo"))}) is None
