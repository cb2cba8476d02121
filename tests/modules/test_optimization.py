"""Optimizer and schedule: the shapes everybody uses, a warm-up that wastes no step, no decay on norms and biases."""

import math

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from orpo_lightning.modules.optimization import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule

THEIR_NAMES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "inverse_sqrt": "inverse_sqrt",
}


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def our_rates(name, warmup, total):
    optimizer = sgd()
    return rates(optimizer, build_schedule(ScheduleConfig(name, warmup), optimizer, total), total)


def their_rates(name, warmup, total):
    optimizer = sgd()
    scheduler = get_scheduler(THEIR_NAMES[name], optimizer, num_warmup_steps=warmup, num_training_steps=total)
    return rates(optimizer, scheduler, total)


@pytest.mark.parametrize("name", THEIR_NAMES)
@pytest.mark.parametrize(("warmup", "total"), [(0, 20), (1, 20), (5, 20), (19, 20), (20, 20), (0, 1), (1, 1)])
def test_after_the_warm_up_the_rates_are_those_of_transformers(name, warmup, total):
    ours, theirs = our_rates(name, warmup, total), their_rates(name, warmup, total)
    assert len(ours) == total
    assert ours[warmup:] == pytest.approx(theirs[warmup:])


@pytest.mark.parametrize("name", THEIR_NAMES)
def test_the_warm_up_rises_linearly_from_above_zero_to_the_peak_at_its_last_step(name):
    assert our_rates(name, 4, 10)[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", THEIR_NAMES)
@pytest.mark.parametrize("warmup", [0, 0.1, 0.5, 1, 7])
def test_no_step_is_wasted_and_none_is_above_the_peak(name, warmup):
    found = our_rates(name, warmup, 10)
    assert min(found) > 0
    assert max(found) == 1


def test_the_rates_worked_by_hand():
    assert our_rates("linear", 2, 6) == pytest.approx([0.5, 1, 1, 3 / 4, 2 / 4, 1 / 4])
    assert our_rates("cosine", 0, 4) == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])
    assert our_rates("inverse_sqrt", 2, 9)[2:] == pytest.approx([math.sqrt(2 / (2 + i)) for i in range(7)])
    assert our_rates("constant", 2, 5) == [0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_steps_beyond_the_planned_ones_do_not_rise_again(name):
    optimizer = sgd()
    assert rates(optimizer, build_schedule(ScheduleConfig(name, 0), optimizer, 4), 7)[4:] == [0, 0, 0]


@pytest.mark.parametrize(
    ("share", "total", "steps"),
    [
        (0.25, 8, 2),
        (0.1, 5, 1),  # half a step is one
        (0.5, 7, 4),
        (0.0, 8, 0),
    ],
)
def test_a_warm_up_below_one_is_a_share_of_all_steps(share, total, steps):
    assert our_rates("linear", share, total) == our_rates("linear", steps, total)


def test_a_warm_up_of_one_is_one_step_and_not_all_of_them():
    assert our_rates("linear", 1.0, 4) == pytest.approx([1, 1, 2 / 3, 1 / 3])


def test_all_groups_share_the_schedule():
    optimizer = build_optimizer(OptimizerConfig(lr=2.0, algorithm="torch.optim.SGD"), Net().named_parameters())
    build_schedule(ScheduleConfig("constant", 4), optimizer, 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("warmup", [-1, -0.1, 1.5, 2.25, math.nan])
def test_a_warm_up_out_of_range_is_refused_by_name(warmup):
    with pytest.raises(ValueError, match=r"model\.schedule\.warmup = "):
        ScheduleConfig(warmup=warmup)


def test_an_infinite_warm_up_is_refused_by_name():
    with pytest.raises(ValueError, match=r"model\.schedule\.warmup = "):
        ScheduleConfig(warmup=math.inf)


def test_an_unknown_schedule_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"model\.schedule\.name = 'cosin'.*constant, linear, cosine, inverse_sqrt"):
        ScheduleConfig(name="cosin")


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1e-6, math.nan])
def test_an_optimizer_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"model\.optimizer\.{name} = "):
        OptimizerConfig(**{name: value})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 3)


def decay_by_name(net, **options):
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1, **options), net.named_parameters())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: decay[id(p)] for name, p in net.named_parameters() if id(p) in decay}


def test_matrices_decay_and_norms_and_biases_do_not():
    assert decay_by_name(Net()) == {
        "embedding.weight": 0.1,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "linear.weight": 0.1,
        "linear.bias": 0.0,
    }


def test_without_a_gradient_only_matrices_shrink():
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(OptimizerConfig(lr=0.5, weight_decay=0.1), net.named_parameters()).step()
    for name, parameter in net.named_parameters():
        shrunk = 1 - 0.5 * 0.1 if parameter.ndim == 2 else 1
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


def test_frozen_parameters_are_left_out():
    net = Net()
    net.linear.requires_grad_(False)
    assert decay_by_name(net).keys() == {"embedding.weight", "norm.weight", "norm.bias"}


@pytest.mark.parametrize(("kept", "groups"), [("embedding", [0.1]), ("norm", [0.0])])
def test_there_is_no_empty_group(kept, groups):
    net = Net().requires_grad_(False)
    getattr(net, kept).requires_grad_(True)
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1), net.named_parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == groups


def test_the_default_is_fused_adamw():
    optimizer = build_optimizer(OptimizerConfig(lr=1e-3), Net().named_parameters())
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"] is True
    assert optimizer.defaults["lr"] == 1e-3


def test_options_reach_the_optimizer():
    config = OptimizerConfig(options={"betas": (0.8, 0.9), "fused": False})
    optimizer = build_optimizer(config, Net().named_parameters())
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["fused"] is False


def test_options_are_not_changed():
    options = {"betas": (0.8, 0.9)}
    build_optimizer(OptimizerConfig(options=options), Net().named_parameters())
    assert options == {"betas": (0.8, 0.9)}


def test_another_algorithm_is_taken_by_its_path():
    config = OptimizerConfig(algorithm="torch.optim.SGD", options={"momentum": 0.9})
    optimizer = build_optimizer(config, Net().named_parameters())
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["momentum"] == 0.9


def test_an_algorithm_without_a_fused_form_is_not_asked_for_it():
    optimizer = build_optimizer(OptimizerConfig(algorithm="torch.optim.RMSprop"), Net().named_parameters())
    assert type(optimizer) is torch.optim.RMSprop


@pytest.mark.parametrize("algorithm", ["torch.optim.AdamX", "AdamW", "", "torch.nn.Linear", "torch.optim", "math.pi"])
def test_what_is_no_optimizer_is_refused_by_name(algorithm):
    with pytest.raises(ValueError, match=r"model\.optimizer\.algorithm = ") as error:
        build_optimizer(OptimizerConfig(algorithm=algorithm), Net().named_parameters())
    assert repr(algorithm) in str(error.value)


@pytest.mark.parametrize("algorithm", ["torch.optimm.AdamW", "no_such_package.Lion"])
def test_an_algorithm_of_a_module_that_is_not_there_is_refused_by_name(algorithm):
    with pytest.raises(ValueError, match=r"model\.optimizer\.algorithm = "):
        build_optimizer(OptimizerConfig(algorithm=algorithm), Net().named_parameters())
