from abc import abstractmethod

import pytest
import torch

from orpo_lightning.objectives import DPO, IPO, ORPO, HingeDPO, Objective, get_objective, list_objectives
from orpo_lightning.records import ObjectiveOutput

BUILT_IN = ("CPO", "DPO", "HingeDPO", "IPO", "KTO", "ORPO", "ProbabilityRatio", "RobustDPO", "SFT", "SimPO")


def define(name, module, bases=(Objective,)):
    def call(self, policy, reference=None):
        return ObjectiveOutput(torch.zeros_like(policy.chosen))

    return type(name, bases, {"__module__": module, "__call__": call})


# names


@pytest.mark.parametrize("name", ["HingeDPO", "hingedpo", "HINGEDPO", "hingeDpo"])
def test_an_objective_is_found_by_its_class_name_in_any_case(name):
    assert get_objective(name) is HingeDPO


def test_the_built_in_objectives_are_listed_in_order():
    assert list_objectives() == BUILT_IN


def test_a_class_registers_itself_when_it_is_defined():
    cls = define("SquaredMargin", "my_losses")
    assert get_objective("squaredmargin") is cls
    assert "SquaredMargin" in list_objectives()


def test_a_subclass_of_a_built_in_registers_itself_under_its_own_name():
    cls = define("SofterDPO", "my_losses", (DPO,))
    assert get_objective("softerdpo") is cls
    assert get_objective("dpo") is DPO


def test_abstract_bases_are_not_listed():
    class Ranked(Objective):
        @abstractmethod
        def rank(self): ...

        def __call__(self, policy, reference=None):
            return ObjectiveOutput(self.rank())

    class Listed(Ranked):
        def rank(self):
            return torch.zeros(1)

    assert "Listed" in list_objectives()
    assert {"Objective", "LogRatioObjective", "NLLObjective", "Ranked"}.isdisjoint(list_objectives())


# paths


def test_an_objective_is_found_by_the_path_of_its_class():
    assert get_objective("orpo_lightning.objectives.orpo.ORPO") is ORPO


def test_a_path_imports_the_module_it_names(tmp_path, monkeypatch):
    (tmp_path / "losses_of_a_user.py").write_text(
        "from orpo_lightning.objectives import SFT\nclass QuietSFT(SFT): pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert get_objective("losses_of_a_user.QuietSFT").__module__ == "losses_of_a_user"
    assert "QuietSFT" in list_objectives()


@pytest.mark.parametrize("path", ["math.pi", "torch.nn.Linear", "orpo_lightning.objectives.NoSuchLoss"])
def test_a_path_to_anything_else_is_refused(path):
    with pytest.raises(ValueError, match=rf"{path} is not a subclass of orpo_lightning\.Objective"):
        get_objective(path)


# misses


@pytest.mark.parametrize(("name", "meant"), [("ORPPO", "ORPO"), ("hinge_dpo", "HingeDPO"), ("simp", "SimPO")])
def test_a_misspelt_name_is_answered_with_the_nearest_and_all_names(name, meant):
    with pytest.raises(ValueError, match=f"no objective is named '{name}'; did you mean '{meant}'") as error:
        get_objective(name)
    assert all(known in str(error.value) for known in BUILT_IN)


def test_a_name_like_no_other_is_answered_with_all_names_only():
    with pytest.raises(ValueError, match="no objective is named 'zzz'; known: CPO, DPO, ") as error:
        get_objective("zzz")
    assert "did you mean" not in str(error.value)


# clashes


@pytest.mark.parametrize("name", ["IPO", "ipo", "Ipo"])
def test_the_name_of_a_built_in_is_taken_in_any_case(name):
    with pytest.raises(ValueError, match=rf"my_losses\.{name}: the name IPO is taken by the built-in .*\.ipo\.IPO"):
        define(name, "my_losses")
    assert get_objective("IPO") is IPO


def test_one_name_in_two_modules_is_ambiguous_and_the_error_names_both_paths():
    define("Twin", "first_module")
    define("Twin", "second_module")
    with pytest.raises(ValueError, match=r"ambiguous.*first_module\.Twin, second_module\.Twin"):
        get_objective("twin")
    assert list_objectives().count("Twin") == 1


def test_one_name_in_two_spellings_is_ambiguous_too():
    define("Twin", "my_losses")
    define("TWIN", "my_losses")
    with pytest.raises(ValueError, match=r"ambiguous.*my_losses\.Twin, my_losses\.TWIN"):
        get_objective("twin")


def test_a_definition_that_runs_again_replaces_the_first():
    first, second = define("Margin", "__main__"), define("Margin", "__main__")
    assert get_objective("margin") is second
    assert get_objective("margin") is not first


def test_an_ambiguous_name_stays_ambiguous_when_one_definition_runs_again():
    for module in ("first_module", "second_module", "first_module"):
        define("Twin", module)
    with pytest.raises(ValueError, match=r"second_module\.Twin, first_module\.Twin$"):
        get_objective("twin")
