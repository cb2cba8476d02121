"""The kernels of the head by their names: what a GPU would run is held against the blocks with an emulation here."""

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

from orpo_lightning.models import head_kernels
from orpo_lightning.models.agreement import KernelWarning
from orpo_lightning.models.head import OutputHead
from orpo_lightning.models.head_kernels import head_kernel, liger_logps
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.linear_logps import linear_logps
from orpo_lightning.models.loading import PolicyConfig
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

CPU = torch.device("cpu")
STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)


def emulated(hidden, weight, targets, *, bias, reduction, accum_dtype):
    """What liger's function gives by its documentation."""
    assert (reduction, accum_dtype) == ("none", torch.float32)
    assert hidden.dtype == weight.dtype
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@pytest.fixture
def with_emulation(monkeypatch):
    def use(function=emulated):
        monkeypatch.setattr(head_kernels, "_liger", lambda: function)

    use()
    return use


@pytest.mark.usefixtures("with_emulation")
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("bias", [True, False])
def test_ligers_kernel_is_called_for_the_same_numbers(bias, scale):
    torch.manual_seed(0)
    inputs = [torch.randn(20, 8), torch.randn(31, 8), torch.randn(31) if bias else None]
    inputs = [each if each is None else each.requires_grad_() for each in inputs]
    targets, upstream = torch.randint(0, 31, (20,)), torch.randn(20)
    trained = [each for each in inputs if each is not None]
    found, expected = (kernel(*inputs, targets, scale) for kernel in (liger_logps, linear_logps))
    torch.testing.assert_close(found, expected)
    found, expected = (torch.autograd.grad(each, trained, upstream) for each in (found, expected))
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("with_emulation")
def test_it_computes_in_the_precision_of_autocast_and_returns_fp32():
    hidden, weight = torch.randn(5, 8), torch.randn(9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = liger_logps(hidden, weight, None, torch.arange(5))
    assert found.dtype == torch.float32
    exact = linear_logps(hidden, weight, None, torch.arange(5))
    assert 0 < (found - exact).abs().max() < 0.1


@pytest.mark.usefixtures("with_emulation")
@pytest.mark.parametrize("wrong", [-1, -100, 9, 2**40])
def test_a_target_outside_of_the_vocabulary_has_no_log_probability(wrong):
    hidden, weight, targets = torch.randn(3, 8, requires_grad=True), torch.randn(9, 8), torch.arange(3)
    expected = liger_logps(hidden, weight, None, targets)
    targets[1], expected[1] = wrong, torch.nan
    torch.testing.assert_close(liger_logps(hidden, weight, None, targets), expected, equal_nan=True)


def test_the_call_fits_the_installed_version():
    spec = importlib.util.find_spec("liger_kernel")
    file = Path(spec.submodule_search_locations[0], "transformers", "functional.py")
    tree = ast.parse(file.read_text())  # it cannot be imported without triton
    (function,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "liger_fused_linear_cross_entropy"
    )
    names = [each.arg for each in function.args.args]
    assert names[:3] == ["input", "weight", "target"]
    assert {"bias", "reduction", "accum_dtype"} <= set(names)


def test_the_check_passes_a_kernel_that_is_right_and_no_other(with_emulation):
    assert head_kernels._disagreement(CPU, torch.float32) is None
    with_emulation(lambda *inputs, **options: emulated(*inputs, **options) + 0.1)
    assert "differs from the blocks on a few tokens: by" in head_kernels._disagreement(CPU, torch.float32)

    def with_one_gradient_for_all(hidden, weight, targets, **options):
        losses = emulated(hidden, weight, targets, **options)
        return losses.detach() + losses.mean() - losses.mean().detach()

    with_emulation(with_one_gradient_for_all)
    assert "differs from the blocks on a few tokens: by" in head_kernels._disagreement(CPU, torch.float32)
    with_emulation(lambda *inputs, **options: emulated(*inputs, **options) * torch.nan)
    assert "differs from the blocks on a few tokens: by nan" in head_kernels._disagreement(CPU, torch.float32)


@pytest.mark.usefixtures("with_emulation")
def test_the_check_passes_where_validation_comes_first():
    with torch.inference_mode():
        assert head_kernels._disagreement(CPU, torch.float32) is None


def test_a_package_that_is_not_there_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(head_kernels.importlib, "import_module", missing)
    assert "pip install 'orpo-lightning[liger]'" in head_kernels._disagreement(CPU, torch.float32)


def test_an_unknown_kernel_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match=r"model\.policy\.head_kernel = 'cut'; accepted: blocks, liger"):
        PolicyConfig(head_kernel="cut")


def test_ligers_kernel_is_refused_without_cuda():
    model = LogpModel(tiny_model(), "packed", Kernels(head="liger"))
    with pytest.raises(ValueError, match="head_kernel = 'liger', but it runs on CUDA, and this is cpu"):
        model(pack(make_rows(2), STEP))


def test_a_head_that_no_kernel_computes_says_so():
    head = OutputHead(torch.nn.Linear(4, 9), softcap=3.0, kernel="liger")
    with pytest.warns(KernelWarning, match="head_kernel = 'liger' does not run: the head is more than a linear layer"):
        head.per_token(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))


def test_ligers_kernel_is_refused_in_fp64_which_it_does_not_compute_in():
    with pytest.raises(ValueError, match="it computes in float32, bfloat16 or float16, and here is float64; accepted"):
        head_kernel("liger", torch.device("cuda", 0), torch.float64)


def test_a_kernel_is_held_against_the_blocks_in_the_precision_that_it_computes_in(with_emulation):
    seen = []
    with_emulation(lambda hidden, *rest, **options: seen.append(hidden.dtype) or emulated(hidden, *rest, **options))
    assert head_kernels._disagreement(CPU, torch.bfloat16) is None
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize(
    ("weights", "autocast", "computed_in"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.bfloat16, torch.float64),
    ],
    ids=str,
)
def test_a_head_runs_by_the_kernel_that_it_was_given(monkeypatch, weights, autocast, computed_in):
    asked = []
    monkeypatch.setattr(
        "orpo_lightning.models.head.head_kernel", lambda *arguments: asked.append(arguments) or linear_logps
    )
    head = OutputHead(torch.nn.Linear(4, 9, dtype=weights), kernel="liger")
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        head.per_token(torch.randn(3, 4, dtype=weights), torch.arange(3))
    assert asked == [("liger", CPU, computed_in)]


def test_the_blocks_are_the_default():
    assert head_kernel(PolicyConfig().kernels.head, CPU, torch.float32) is linear_logps
