"""An optimizer that steps weights that are shared out otherwise than whole ones is refused before a model is loaded."""

import re

import pytest
import torch
from torch.optim import SGD

from orpo_lightning import OptimizerConfig
from orpo_lightning.modules.optimizer_check import check_optimizer


class SecondHalf:
    """A strategy that gives this process the second half of the numbers, as FSDP1 does."""

    def part_of(self, weight):
        return weight.flatten().tensor_split(2)[1]


class Noisy(SGD):
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.add_(torch.randn_like(weight))


class OfMatrices(SGD):
    def step(self, closure=None):
        if all(weight.dim() == 1 for group in self.param_groups for weight in group["params"]):
            raise RuntimeError("a matrix is\nneeded. Give it one.")
        super().step()


class OfMatricesAlone(SGD):
    """Takes no bias, as Muon does, and moves each part by its own norm."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        if any(weight.dim() == 1 and len(weight) == 3 for group in self.param_groups for weight in group["params"]):
            raise ValueError("a bias")

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.sub_(weight.grad / weight.grad.norm(), alpha=group["lr"])


class Broken(SGD):
    def step(self, closure=None):
        raise RuntimeError("of whole weights too")


def config(algorithm, **options):
    return OptimizerConfig(algorithm=algorithm, **options)


@pytest.mark.parametrize(
    "algorithm",
    [*(f"torch.optim.{name}" for name in ("AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "NAdam")), f"{__name__}.Noisy"],
)
def test_one_that_takes_each_number_by_itself_or_draws_some_is_none_of_them(algorithm):
    check_optimizer(config(algorithm, weight_decay=0.1), SecondHalf())


def test_one_that_moves_parts_otherwise_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"'torch\.optim\.Adafactor' moves weights that SecondHalf shares out otherwise"
    ):
        check_optimizer(config("torch.optim.Adafactor"), SecondHalf())


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (f"{__name__}.OfMatricesAlone", "moves weights"),
        ("torch.optim.Muon", "cannot step"),
        ("torch.optim.LBFGS", "moves weights"),
    ],
)
def test_one_that_takes_matrices_alone_is_refused_by_these(algorithm, words):
    with pytest.raises(ValueError, match=f"{re.escape(algorithm)}' {words}"):
        check_optimizer(config(algorithm), SecondHalf())


def test_one_that_fails_on_parts_alone_is_refused_with_what_it_says():
    with pytest.raises(ValueError, match=r"OfMatrices' cannot step .* \(a matrix is needed\); accepted: .* ddp$"):
        check_optimizer(config(f"{__name__}.OfMatrices"), SecondHalf())


@pytest.mark.parametrize(
    ("algorithm", "strategy"), [("Broken", SecondHalf()), ("OfMatrices", None), ("Noisy", object())]
)
def test_what_has_nothing_to_do_with_parts_is_left_to_the_run(algorithm, strategy):
    check_optimizer(config(f"{__name__}.{algorithm}"), strategy)


def test_the_numbers_that_a_run_draws_are_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_optimizer(config(f"{__name__}.Noisy"), SecondHalf())
    assert torch.equal(torch.rand(2), expected)
