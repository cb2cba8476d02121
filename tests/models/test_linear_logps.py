"""Log-probabilities straight from hidden states: those of the full logits, in value and gradient, for any block."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensors import LargestTensor

from orpo_lightning.models import linear_logps as module
from orpo_lightning.models.linear_logps import linear_logps


def problem(positions=20, hidden_size=8, vocabulary=31, *, bias=True, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(positions, hidden_size, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, hidden_size, dtype=dtype, requires_grad=True)
    offset = torch.randn(vocabulary, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.randint(0, vocabulary, (positions,))


def of_all_logits(hidden, weight, bias, targets, scale=1.0):
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def gradients(logps, inputs, upstream):
    return torch.autograd.grad(logps, [each for each in inputs if each is not None], upstream)


@pytest.fixture
def blocks_of(monkeypatch):
    def set_sizes(positions, vocabulary):
        monkeypatch.setattr(module, "BLOCK_POSITIONS", positions)
        monkeypatch.setattr(module, "BLOCK_LOGITS", {"cpu": positions * vocabulary})

    return set_sizes


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sizes", [(20, 31), (7, 5), (1, 1), (64, 64), (3, 31), (20, 4)], ids=str)
def test_values_and_gradients_are_those_of_the_full_logits(blocks_of, sizes, bias, scale):
    blocks_of(*sizes)
    *inputs, targets = problem(bias=bias)
    upstream = torch.randn(20, dtype=torch.float64)
    found, expected = (of(*inputs, targets, scale) for of in (linear_logps, of_all_logits))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(found, inputs, upstream), gradients(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 12), st.integers(1, 40), st.integers(1, 13), st.integers(1, 50), st.integers(0, 999))
def test_for_any_shape_and_any_block(positions, vocabulary, block_positions, block_logits, seed):
    *inputs, targets = problem(positions, 3, vocabulary, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_POSITIONS", block_positions)
        patch.setattr(module, "BLOCK_LOGITS", {"cpu": block_logits})
        found = linear_logps(*inputs, targets)
        expected = of_all_logits(*inputs, targets)
        torch.testing.assert_close(found, expected)
        upstream = torch.randn(positions, dtype=torch.float64)
        for one, other in zip(gradients(found, inputs, upstream), gradients(expected, inputs, upstream), strict=True):
            torch.testing.assert_close(one, other)


def test_the_derivative_is_that_of_differences(blocks_of):
    blocks_of(3, 4)
    *inputs, targets = problem(5, 4, 9)
    assert torch.autograd.gradcheck(lambda *x: linear_logps(*x, targets), tuple(inputs))


def test_logits_of_minus_infinity_have_no_part(blocks_of):
    blocks_of(4, 3)
    hidden, weight, bias, _ = problem(6, 4, 12)
    targets = torch.tensor([3, 4, 5, 6, 7, 8])
    padded = bias.detach().clone()
    padded[:3] = padded[9:] = -torch.inf  # whole blocks, the first among them
    found = linear_logps(hidden, weight, padded, targets)
    expected = of_all_logits(hidden, weight[3:9], bias[3:9], targets - 3)
    torch.testing.assert_close(found, expected)
    upstream = torch.ones_like(found)
    found, expected = (torch.autograd.grad(each, (hidden, weight), upstream) for each in (found, expected))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_logits_that_overflow_their_exponential_do_not():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    logps = linear_logps(hidden, weight, None, torch.tensor([0, 1]))
    torch.testing.assert_close(logps, torch.tensor([0.0, -1e4]))
    logps.sum().backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
def test_what_is_frozen_gets_no_gradient(frozen):
    *inputs, targets = problem()
    for place in frozen:
        inputs[place].requires_grad_(False)
    trained = [each for each in inputs if each.requires_grad]
    found, expected = (gradients(of(*inputs, targets).sum(), trained, None) for of in (linear_logps, of_all_logits))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_half_precision_rounds_the_products_and_nothing_else(weights):
    hidden, weight, _, targets = problem(64, 32, 500, bias=False, dtype=torch.float32)
    upstream = torch.randn(64)
    exact = of_all_logits(hidden.double(), weight.double(), None, targets)
    exact_gradients = gradients(exact, (hidden, weight), upstream.double())

    def error(of):
        with torch.autocast("cpu", torch.bfloat16, enabled=weights is torch.float32):
            logps = of(hidden.to(weights), weight.to(weights), None, targets).float()
        found = gradients(logps, (hidden, weight), upstream)
        pairs = [(logps, exact), *zip(found, exact_gradients, strict=True)]
        return [((one - other).norm() / other.norm()).item() for one, other in pairs]

    found = error(linear_logps)
    plain = error(lambda *inputs: of_all_logits(*inputs))
    assert linear_logps(hidden.to(weights), weight.to(weights), None, targets).dtype == torch.float32
    assert all(one <= 1.1 * other for one, other in zip(found, plain, strict=True)), (found, plain)
    assert all(one < 0.02 for one in found)


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_weights_in_fp64_stay_in_fp64(autocast):
    *inputs, targets = problem()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = (of(*inputs, targets) for of in (linear_logps, of_all_logits))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.ones_like(found)
    for one, other in zip(gradients(found, inputs, upstream), gradients(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_the_gradient_of_a_bias_in_half_precision_is_rounded_once(blocks_of):
    hidden, weight, bias, targets = problem(4000, 8, 7, dtype=torch.bfloat16)
    upstream = torch.ones(4000)
    (whole,) = torch.autograd.grad(linear_logps(hidden, weight, bias, targets), bias, upstream)
    blocks_of(1, 7)
    (added_up,) = torch.autograd.grad(linear_logps(hidden, weight, bias, targets), bias, upstream)
    torch.testing.assert_close(added_up, whole)


@pytest.mark.parametrize("sizes", [(3, 31), (3, 8), (64, 10), (1, 1), (64, 64)], ids=str)
@pytest.mark.parametrize("wrong", [-1, -100, -(2**40), 31, 32, 39, 2**40])
def test_a_target_outside_of_the_vocabulary_has_no_log_probability(blocks_of, wrong, sizes):
    blocks_of(*sizes)
    *inputs, targets = problem(4)
    expected = linear_logps(*inputs, targets)
    targets[2] = wrong
    expected[2] = torch.nan
    found = linear_logps(*inputs, targets)
    torch.testing.assert_close(found, expected, equal_nan=True)
    found.nansum().backward()  # which must not stop at a place that there is not


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 13), st.integers(13, 200))
def test_no_more_logits_are_held_at_a_time_than_a_block_takes(positions, vocabulary, block_positions, block_logits):
    hidden, weight, _, targets = problem(positions, 1, vocabulary, bias=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_POSITIONS", block_positions)
        patch.setattr(module, "BLOCK_LOGITS", {"cpu": block_logits})
        with LargestTensor() as seen:
            linear_logps(hidden, weight, None, targets).sum().backward()
    assert seen.numel <= max(block_logits, hidden.numel(), weight.numel())


def test_the_logits_of_all_tokens_are_not_held_where_they_are_more(blocks_of):
    blocks_of(64, 500)
    hidden, weight, bias, targets = problem(1000, 8, 5000, dtype=torch.float32)
    with LargestTensor() as seen:
        linear_logps(hidden, weight, bias, targets).sum().backward()
    assert seen.numel == max(64 * 500, weight.numel())
    with LargestTensor() as plain:  # the observer does see such a block where there is one
        of_all_logits(hidden, weight, bias, targets).sum().backward()
    assert plain.numel == 1000 * 5000


def test_a_second_derivative_is_refused():
    *inputs, targets = problem()
    (gradient, *_) = torch.autograd.grad(linear_logps(*inputs, targets).sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
