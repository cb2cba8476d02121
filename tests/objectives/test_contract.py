from dataclasses import FrozenInstanceError

import pytest
import torch

from orpo_lightning.objectives import (
    CPO,
    DPO,
    IPO,
    KTO,
    ORPO,
    SFT,
    HingeDPO,
    Objective,
    ProbabilityRatio,
    RobustDPO,
    SimPO,
)
from orpo_lightning.records import ObjectiveOutput, PairLogps, UndeclaredNeedError

NEEDS = {
    "rejected": "needs_rejected",
    "rejected_tokens": "needs_rejected",
    "chosen_full": "needs_prompt_logps",
    "chosen_full_tokens": "needs_prompt_logps",
}


def two_pairs(**fields):
    return PairLogps(**{"chosen": torch.tensor([-6.0, -2.0]), "chosen_tokens": torch.tensor([3, 1]), **fields})


# what an objective sees


@pytest.mark.parametrize("name", NEEDS)
def test_reading_what_was_not_declared_names_the_field_and_the_attribute_to_set(name):
    with pytest.raises(UndeclaredNeedError, match=rf"'{name}' was not computed.* set `{NEEDS[name]} = True`"):
        getattr(two_pairs(), name)


def test_the_mean_of_what_was_not_declared_names_it_too():
    pairs = two_pairs()
    with pytest.raises(UndeclaredNeedError, match="needs_rejected"):
        _ = pairs.rejected_mean
    with pytest.raises(UndeclaredNeedError, match="needs_prompt_logps"):
        pairs.mean_tokens(full=True)


@pytest.mark.parametrize("name", NEEDS)
def test_what_was_computed_is_read_as_it_is(name):
    given = torch.tensor([-9.0, -4.0])
    assert getattr(two_pairs(**{name: given}), name) is given


def test_an_objective_can_ask_whether_the_rejected_responses_were_scored():
    assert not two_pairs().has_rejected
    assert two_pairs(rejected=torch.tensor([-1.0, -1.0])).has_rejected


@pytest.mark.parametrize("name", ["chosen", "rejected", "chosen_full"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_fp32(name, dtype):
    raised = getattr(two_pairs(**{name: torch.tensor([-1.0078125, -3.0], dtype=dtype)}), name)
    assert raised.dtype == torch.float32
    assert raised.tolist() == [-1.0078125, -3.0]


@pytest.mark.parametrize("name", ["chosen", "rejected", "chosen_full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_is_kept(name, dtype):
    given = torch.tensor([-1.0, -3.0], dtype=dtype)
    assert getattr(two_pairs(**{name: given}), name) is given


def test_the_gradient_reaches_half_precision_inputs():
    logps = torch.tensor([-6.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    two_pairs(chosen=logps).chosen_mean.sum().backward()
    assert logps.grad.tolist() == pytest.approx([1 / 3, 1.0], rel=4e-3)


def test_means_are_per_token():
    pairs = two_pairs(rejected=torch.tensor([-8.0, -3.0]), rejected_tokens=torch.tensor([2, 6]))
    assert pairs.chosen_mean.tolist() == [-2.0, -2.0]
    assert pairs.rejected_mean.tolist() == [-4.0, -0.5]


def test_everything_but_the_chosen_responses_is_optional():
    pairs = two_pairs()
    assert (pairs.margin, pairs.tokens_per_pair, pairs.full_tokens_per_pair) == (None, None, None)
    with pytest.raises(TypeError, match="chosen_tokens"):
        PairLogps(chosen=torch.tensor([-6.0]))


def test_tokens_per_pair_are_those_of_these_pairs_unless_the_global_ones_are_given():
    full = torch.tensor([10, 5])
    assert two_pairs().mean_tokens(full=False) == 2
    assert two_pairs(tokens_per_pair=7.0).mean_tokens(full=False) == 7
    assert two_pairs(chosen_full_tokens=full).mean_tokens(full=True) == 7.5
    assert two_pairs(chosen_full_tokens=full, full_tokens_per_pair=9.0).mean_tokens(full=True) == 9


@pytest.mark.parametrize("name", ["chosen", "chosen_tokens", "rejected", "margin", "tokens_per_pair"])
def test_log_probabilities_are_frozen(name):
    pairs = two_pairs()
    with pytest.raises(FrozenInstanceError, match=name):
        setattr(pairs, name, torch.zeros(2))


def test_fields_are_given_by_name_so_that_new_ones_can_be_added():
    with pytest.raises(TypeError, match="positional"):
        PairLogps(torch.tensor([-6.0]), torch.tensor([3]))


# what an objective returns


def test_an_output_may_consist_of_a_loss_alone():
    output = ObjectiveOutput(torch.tensor([1.0]))
    assert (output.chosen_rewards, output.rejected_rewards, output.terms) == (None, None, {})


def test_outputs_do_not_share_their_terms():
    first, second = ObjectiveOutput(torch.tensor([1.0])), ObjectiveOutput(torch.tensor([1.0]))
    assert first.terms is not second.terms


# what an objective declares


@pytest.fixture
def squared_margin():
    class SquaredMargin(Objective):
        def __init__(self, width=0.5, over_prompt=False):
            self.width = width
            self.over_prompt = over_prompt

        @property
        def needs_prompt_logps(self):
            return self.over_prompt

        def __call__(self, policy, reference=None):
            return ObjectiveOutput((policy.chosen_mean - policy.rejected_mean - self.width) ** 2)

    return SquaredMargin


def test_an_objective_needs_the_rejected_responses_and_nothing_else_unless_it_says_so(squared_margin):
    objective = squared_margin()
    assert objective.needs_rejected
    assert not objective.needs_reference
    assert not objective.needs_prompt_logps
    assert not objective.couples_pairs


def test_a_need_may_depend_on_an_argument(squared_margin):
    assert squared_margin(over_prompt=True).needs_prompt_logps


def test_an_objective_shows_and_returns_the_arguments_it_was_made_with(squared_margin):
    objective = squared_margin(width=0.7)
    assert repr(objective) == "SquaredMargin(width=0.7, over_prompt=False)"
    assert objective.arguments() == {"width": 0.7, "over_prompt": False}
    assert squared_margin.argument_names() == ("width", "over_prompt")


def test_an_objective_has_no_state_unless_it_says_so(squared_margin):
    assert squared_margin().state_dict() == {}
    squared_margin().load_state_dict({})


def test_an_objective_that_computes_nothing_cannot_be_made():
    class Idle(Objective):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Idle()


@pytest.mark.parametrize("cls", [CPO, DPO, IPO, ORPO, SFT, HingeDPO, ProbabilityRatio, RobustDPO, SimPO])
def test_a_built_in_stores_its_arguments_under_their_names_and_says_where_it_is_from(cls):
    assert cls(**cls().arguments()).arguments() == cls().arguments()
    assert cls.formula
    assert "arXiv:" in cls.citation


@pytest.mark.parametrize(
    ("objective", "strength"),
    [
        (ORPO(lambda_=0.3), 0.3),
        (ProbabilityRatio(lambda_=0.3, beta=2), 0.3),
        (DPO(beta=0.2), 0.2),
        (RobustDPO(beta=0.2), 0.2),
        (HingeDPO(beta=0.2), 0.2),
        (IPO(tau=0.4), 0.4),
        (KTO(beta=0.2), 0.2),
        (SimPO(beta=2.5), 2.5),
        (CPO(beta=0.2, alpha=3), 0.2),
        (SFT(), None),
    ],
    ids=repr,
)
def test_the_strength_of_an_objective_is_the_argument_that_weighs_the_preference(objective, strength):
    assert objective.arguments().get(objective.strength_name) == strength
