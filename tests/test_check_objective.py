"""The conformance test lets right objectives pass and tells wrong ones what they broke."""

import pytest
import torch

from orpo_lightning import Objective, ObjectiveOutput, PairLogps, get_objective, objectives
from orpo_lightning.objectives.unpaired import UnpairedObjective
from orpo_lightning.records import UnpairedLogps
from orpo_lightning.testing import check_objective

BUILT_IN = sorted(set(objectives.__all__) - {"Objective", "get_objective", "list_objectives"})
VARIANTS = [
    ("ORPO", {"lambda_": 0.0}),
    ("ORPO", {"nll_over": "response", "nll_mean": "sequences"}),
    ("SFT", {"nll_over": "response", "nll_mean": "sequences"}),
    ("DPO", {"label_smoothing": 0.2, "length_normalized": True}),
    ("RobustDPO", {"label_smoothing": 0.2}),
    ("HingeDPO", {"length_normalized": True}),
    ("IPO", {"length_normalized": False}),
    ("CPO", {"nll_over": "prompt_and_response", "nll_mean": "sequences", "label_smoothing": 0.1}),
    ("KTO", {"beta": 5.0, "desirable_weight": 1.5, "undesirable_weight": 0.0}),
]


@pytest.mark.parametrize(("name", "arguments"), [*((name, {}) for name in BUILT_IN), *VARIANTS])
def test_the_built_in_objectives_conform(name, arguments):
    check_objective(get_objective(name), **arguments)


class Good(Objective):
    """The squared margin: what each broken objective below differs from by one thing."""

    def __init__(self, width: float = 0.5) -> None:
        self.width = width

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        return ObjectiveOutput(self.loss(policy, reference))

    def loss(self, policy, reference):
        return (policy.chosen_mean - policy.rejected_mean - self.width) ** 2


def test_a_users_objective_conforms():
    check_objective(Good)
    check_objective(Good, width=2.0)


class InsistsOnNoReference(Good):
    def loss(self, policy, reference):
        assert reference is None
        return super().loss(policy, reference)


class ReferenceWithPrompt(Good):
    needs_reference = True
    needs_prompt_logps = True

    def loss(self, policy, reference):
        return (policy.chosen_full - reference.chosen_full) ** 2


class SortsItsBatch(Good):
    """Sorted margins, as in AOT: the loss of a rank, not of a pair."""

    couples_pairs = True

    def loss(self, policy, reference):
        return (policy.chosen_mean.sort().values - policy.rejected_mean.sort().values - self.width) ** 2


class RunningMean(Good):
    couples_pairs = True

    def __init__(self, width: float = 0.5) -> None:
        super().__init__(width)
        self.mean = torch.zeros(())

    def loss(self, policy, reference):
        margin = policy.chosen_mean - policy.rejected_mean
        self.mean = 0.9 * self.mean + 0.1 * margin.detach().float().mean()
        return (margin - self.mean) ** 2

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


class GoodUnpaired(UnpairedObjective):
    """The mean log-probability of each response towards a target of its kind."""

    def __init__(self, width: float = 0.5) -> None:
        self.width = width

    def __call__(self, policy: UnpairedLogps, reference: UnpairedLogps | None = None) -> ObjectiveOutput:
        return ObjectiveOutput(self.loss(policy, reference), rewards=policy.mean.detach())

    def loss(self, policy, reference):
        return (policy.mean + torch.where(policy.desirable, 0.0, self.width)) ** 2


@pytest.mark.parametrize("cls", [InsistsOnNoReference, ReferenceWithPrompt, SortsItsBatch, RunningMean, GoodUnpaired])
def test_unusual_objectives_that_keep_the_contract_conform(cls):
    check_objective(cls)


class Reduces(Good):
    def loss(self, policy, reference):
        return super().loss(policy, reference).mean()


class RoundsToHalf(Good):
    def loss(self, policy, reference):
        return super().loss(policy, reference).bfloat16()


class Detached(Good):
    def loss(self, policy, reference):
        return super().loss(policy, reference).detach()


class AttachedReward(Good):
    def __call__(self, policy, reference=None):
        return ObjectiveOutput(self.loss(policy, reference), policy.chosen_mean, policy.rejected_mean.detach())


class InfiniteAtTheEdge(Good):
    def loss(self, policy, reference):
        return torch.log(-policy.chosen_mean) - policy.rejected_mean


class InfiniteSlope(Good):
    def loss(self, policy, reference):
        return torch.sqrt(-policy.chosen_mean) - policy.rejected_mean


class KnowsThePlace(Good):
    def loss(self, policy, reference):
        return super().loss(policy, reference) * torch.arange(1, len(policy.chosen) + 1)


class LooksAtItsMates(Good):
    def loss(self, policy, reference):
        return (policy.chosen_mean - policy.rejected_mean.mean()) ** 2


class StateMovesUnsaid(RunningMean):
    couples_pairs = False


class ReadsTheReference(Good):
    def loss(self, policy, reference):
        return super().loss(policy, reference) + reference.chosen


class ReadsThePrompt(Good):
    def loss(self, policy, reference):
        return super().loss(policy, reference) - policy.chosen_full


class ReadsTheRejected(Good):
    needs_rejected = False


class EditsItsInput(Good):
    def __call__(self, policy, reference=None):
        output = super().__call__(policy, reference)
        policy.rejected_tokens.add_(1)
        return output


class RenamesItsArgument(Good):
    def __init__(self, width: float = 0.5) -> None:
        self.width = self.target = width
        del self.width

    def loss(self, policy, reference):
        return (policy.chosen_mean - policy.rejected_mean - self.target) ** 2


class IgnoresItsArgument(Good):
    def __init__(self, width: float = 0.5) -> None:
        super().__init__(0.5)


class CannotBeConfigured(Good):
    def __init__(self, width: "torch.Tensor" = torch.ones(())) -> None:  # noqa: B008  # the mistake that is tested
        super().__init__(width)


class StateOfObjects(RunningMean):
    def state_dict(self):
        return {"mean": Good()}


class ForgetsItsState(RunningMean):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class TakesTheNameOfTheLoss(Good):
    def __call__(self, policy, reference=None):
        loss = self.loss(policy, reference)
        return ObjectiveOutput(loss, terms={"loss": torch.zeros_like(loss)})


class ReadsMismatched(GoodUnpaired):
    def loss(self, policy, reference):
        return super().loss(policy, reference) + policy.mismatched


class UnpairedWithAttachedRewards(GoodUnpaired):
    def __call__(self, policy, reference=None):
        return ObjectiveOutput(self.loss(policy, reference), rewards=policy.mean)


class LooksAtItsUnpairedMates(GoodUnpaired):
    def loss(self, policy, reference):
        return (policy.mean - policy.mean.mean()) ** 2


class OnlyOneKind(GoodUnpaired):
    def loss(self, policy, reference):
        return super().loss(policy, reference) / policy.desirable.sum()


class NamesNoArgument(Good):
    strength_name = "beta"


class NamesNoNumber(Good):
    strength_name = "kind"

    def __init__(self, kind: str = "mild", width: float = 0.5) -> None:
        super().__init__(width)
        self.kind = kind


class ReducesUnpaired(GoodUnpaired):
    def loss(self, policy, reference):
        return super().loss(policy, reference).mean()


BROKEN = {
    Reduces: r"shapes and dtypes: loss has the shape \(\)",
    RoundsToHalf: "shapes and dtypes: loss is torch.bfloat16",
    Detached: "the loss does not depend on the policy",
    AttachedReward: "chosen_rewards must be detached",
    InfiniteAtTheEdge: "finite at the edges: loss is not finite for log p = 0",
    InfiniteSlope: "finite at the edges: d loss / d chosen is not finite for log p = 0",
    KnowsThePlace: "order does not matter",
    LooksAtItsMates: "batch mates do not matter.*couples_pairs = True",
    StateMovesUnsaid: "its state changes in a call.*couples_pairs = True",
    ReadsTheReference: "reads only what it declares.*needs_reference = True",
    ReadsThePrompt: "reads only what it declares.*needs_prompt_logps = True",
    ReadsTheRejected: "reads only what it declares.*needs_rejected = True",
    EditsItsInput: "rejected_tokens was changed in place",
    NamesNoArgument: "strength_name = 'beta' is no argument",
    NamesNoNumber: "strength_name = 'kind' names no number but 'mild'",
    RenamesItsArgument: "'width' of __init__ is not stored",
    IgnoresItsArgument: "made with width = 0.45, it stores {'width': 0.5}",
    CannotBeConfigured: "survives a config file",
    StateOfObjects: "survives a checkpoint",
    ForgetsItsState: "survives a checkpoint: the losses differ",
    ReadsMismatched: "reads only what it declares.*needs_mismatched = True",
    UnpairedWithAttachedRewards: "rewards must be detached",
    LooksAtItsUnpairedMates: "batch mates do not matter.*couples_pairs = True",
    OnlyOneKind: "loss is not finite for undesirable responses only",
    ReducesUnpaired: r"loss has the shape \(\), not one value per response",
    TakesTheNameOfTheLoss: "terms have names of their own.*taken: loss",
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_objective_is_told_what_it_broke(cls):
    with pytest.raises(AssertionError, match=rf"(?s){cls.__name__} breaks the contract.*{BROKEN[cls]}"):
        check_objective(cls)


def test_every_broken_rule_is_listed():
    with pytest.raises(AssertionError) as error:
        check_objective(RenamesItsArgument)
    assert len(str(error.value).splitlines()) > 1
