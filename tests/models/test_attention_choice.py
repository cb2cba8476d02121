"""Which kernel runs where, what is refused, and that none is used which gives other numbers than the blocks."""

import re
import warnings

import attention_cases
import pytest
import torch
from attention_cases import emulated_varlen, use_eager_flex

from orpo_lightning import DPO, PreferenceModule
from orpo_lightning.data.batching import step_info
from orpo_lightning.models import logp_model
from orpo_lightning.models.attention import check, choice, flex, segments, varlen
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.check import disagreement
from orpo_lightning.models.attention.choice import KERNELS, KernelWarning, kernel_for
from orpo_lightning.models.attention.flex import FlexAttention
from orpo_lightning.models.attention.packed import layout_of
from orpo_lightning.models.attention.segments import AttentionCall
from orpo_lightning.models.attention.varlen import VarlenAttention
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
H100, A100, T4 = (9, 0), (8, 0), (7, 5)
STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)


@pytest.fixture(autouse=True)
def nothing_found_out_yet(monkeypatch):
    monkeypatch.setattr(logp_model, "_verdicts", {})
    kernel_for.cache_clear()
    disagreement.cache_clear()
    yield
    kernel_for.cache_clear()
    disagreement.cache_clear()


@pytest.fixture
def on_gpu(monkeypatch):
    """Have a GPU of some generation, with kernels that give the right numbers unless told otherwise."""

    def there_is(capability, wrong=()):
        monkeypatch.setattr(segments, "compute_capability", lambda device: capability)
        monkeypatch.setattr(
            choice,
            "disagreement",
            lambda kernel, call: "it differs" if kernel in [KERNELS[name] for name in wrong] else None,
        )

    return there_is


def call(device=GPU, dtype=BF16, head_size=64, value_size=None, heads=8, key_heads=2):
    return AttentionCall(device, dtype, heads, key_heads, head_size, value_size or head_size)


@pytest.mark.parametrize(
    ("capability", "dtype", "head_size", "expected"),
    [
        (H100, BF16, 64, VarlenAttention),
        (A100, BF16, 128, VarlenAttention),
        (A100, FP16, 64, VarlenAttention),
        (A100, FP32, 64, FlexAttention),
        (A100, FP64, 64, BlockAttention),
        (T4, FP16, 64, BlockAttention),
        (A100, FP32, 8, BlockAttention),
        (A100, BF16, 8, VarlenAttention),
        (A100, BF16, 20, FlexAttention),
        (A100, BF16, 288, FlexAttention),
    ],
)
def test_auto_takes_the_first_that_can(on_gpu, capability, dtype, head_size, expected):
    on_gpu(capability)
    assert kernel_for("auto", call(dtype=dtype, head_size=head_size)) is expected


def test_auto_takes_flex_where_torch_has_no_variable_length_kernel_yet(on_gpu, monkeypatch):
    on_gpu(H100)
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: None)
    assert kernel_for("auto", call()) is FlexAttention


def test_auto_takes_flex_where_keys_and_values_have_heads_of_two_sizes(on_gpu):
    on_gpu(H100)
    assert kernel_for("auto", call(head_size=192, value_size=128)) is FlexAttention


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32, FP64], ids=str)
def test_a_cpu_runs_the_blocks(dtype):
    assert kernel_for("auto", call(CPU, dtype)) is kernel_for("blocks", call(CPU, dtype)) is BlockAttention


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_that_is_named_runs_where_it_can(on_gpu, name):
    on_gpu(H100)
    assert kernel_for(name, call()) is KERNELS[name]


@pytest.mark.parametrize("name", KERNELS)
def test_with_dropout_the_blocks_run_whatever_is_named(on_gpu, name):
    on_gpu(H100)
    assert kernel_for(name, call(), dropout=True) is BlockAttention


@pytest.mark.parametrize(
    ("name", "what", "reason", "accepted"),
    [
        ("flex", call(CPU), "it runs on CUDA, and this is cpu", "auto, blocks"),
        ("varlen", call(CPU), "it runs on CUDA, and this is cpu", "auto, blocks"),
        ("varlen", call(dtype=FP32), "it computes in bfloat16 or float16, and here is float32", "auto, blocks, flex"),
        ("flex", call(dtype=FP64), "it computes in float32, bfloat16 or float16, and here is float64", "auto, blocks"),
        ("flex", call(head_size=8), "a size of 16 or more, and these have 8", "auto, blocks, varlen"),
        ("varlen", call(head_size=20), "a size of 8, 16, 24, … 256, and these have 20", "auto, blocks, flex"),
        ("varlen", call(value_size=32), "heads of one size, and these have 64 and 32", "auto, blocks, flex"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_the_reason_and_the_others(on_gpu, name, what, reason, accepted):
    on_gpu(A100)
    message = rf"model\.policy\.attention_kernel = '{name}', but .*{reason}; accepted: {accepted}$"
    with pytest.raises(ValueError, match=message):
        kernel_for(name, what)


def test_an_old_gpu_is_named_with_its_generation(on_gpu):
    on_gpu(T4)
    with pytest.raises(
        ValueError, match=r"needs compute capability 8\.0, and this GPU has 7\.5; accepted: auto, blocks$"
    ):
        kernel_for("flex", call(dtype=FP16))


def test_a_kernel_with_other_numbers_is_left_out_aloud_once(on_gpu):
    on_gpu(H100, wrong=["varlen"])
    with pytest.warns(KernelWarning, match="runs without its kernel 'varlen': it differs"):
        assert kernel_for("auto", call()) is FlexAttention
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_for("auto", call())


def test_a_kernel_with_other_numbers_that_was_asked_for_is_refused(on_gpu):
    on_gpu(H100, wrong=["varlen"])
    with pytest.raises(ValueError, match="attention_kernel = 'varlen', but it differs; accepted: auto, blocks, flex"):
        kernel_for("varlen", call())


# the check itself, on a CPU, with the kernels as they run on one


def test_the_check_passes_a_kernel_in_half_precision(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: emulated_varlen)
    use_eager_flex(monkeypatch)
    for dtype in (BF16, FP16):
        assert disagreement(VarlenAttention, call(CPU, dtype)) is None
        assert disagreement(FlexAttention, call(CPU, dtype)) is None
    assert disagreement(FlexAttention, call(CPU, FP32)) is None


def upper_left(*args, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_cases, "lower_right", lambda queries, keys: torch.ones(queries, keys).tril().bool())
        return emulated_varlen(*args, **options)


def fails(*args, **options):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


def no_gradient_of_keys(query, key, value, *rest, **options):
    return emulated_varlen(query, key.detach() + 0 * key, value, *rest, **options)


def not_a_number(*args, **options):
    return emulated_varlen(*args, **options) * torch.nan


def no_number_in_the_gradient_of_keys(query, key, value, *rest, **options):
    infinite_slope = (key - key.detach()).clamp_min(0).sqrt()
    return emulated_varlen(query, key.detach() + infinite_slope, value, *rest, **options)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (upper_left, r"it differs from the blocks on a few tokens: by 0\.\d+ of their norm, and 0\.\d+ is allowed"),
        (no_gradient_of_keys, "it differs from the blocks on a few tokens: by 1 of their norm, .*"),
        (not_a_number, "it differs from the blocks on a few tokens: by nan .*"),
        (no_number_in_the_gradient_of_keys, "it differs from the blocks on a few tokens: by nan .*"),
        (fails, "it fails with RuntimeError: no kernel image is available"),
    ],
)
def test_the_check_notices_a_kernel_that_computes_something_else(monkeypatch, kernel, reason):
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: kernel)
    assert re.fullmatch(reason, disagreement(VarlenAttention, call(CPU)))


def test_the_check_notices_a_key_too_few(monkeypatch):
    use_eager_flex(monkeypatch)
    exact = flex.mask_mod

    def too_strict(*vectors):
        sees = exact(*vectors)
        return lambda batch, head, query, key: sees(batch, head, query, key) & ((key != query - 1) | (key == 0))

    monkeypatch.setattr(flex, "mask_mod", too_strict)
    assert "differs" in disagreement(FlexAttention, call(CPU))


def test_the_check_leaves_no_trace_in_what_surrounds_it(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: emulated_varlen)
    saved = []
    state = torch.get_rng_state()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        assert disagreement(VarlenAttention, call(CPU)) is None
    assert not saved  # the recomputation of activations counts what is saved
    assert torch.equal(torch.get_rng_state(), state)
    disagreement.cache_clear()
    with torch.inference_mode(), torch.autocast("cpu", BF16):
        assert disagreement(VarlenAttention, call(CPU)) is None


# the setting


def test_policy_and_reference_run_by_the_kernels_of_the_setting():
    module = PreferenceModule(DPO(), PolicyConfig("tiny", attention_kernel="blocks"))
    module.configure_model()
    assert module.policy.kernels == module.reference.kernels == Kernels("blocks")
    assert LogpModel(tiny_model()).kernels == Kernels("auto")


def test_an_unknown_kernel_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="attention_kernel = 'flash'; accepted: auto, blocks, flex, varlen"):
        PolicyConfig(attention_kernel="flash")


def test_a_kernel_that_cannot_run_stops_the_first_batch_and_is_no_reason_to_run_padded():
    model = LogpModel(tiny_model(), "auto", Kernels("varlen"))
    with pytest.raises(ValueError, match="attention_kernel = 'varlen', but it runs on CUDA, and this is cpu"):
        model(pack(make_rows(2), STEP))


@pytest.mark.parametrize("name", ["flex", "varlen"])
@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"gemma2", "gemma3", "bloom"}))  # they run padded
def test_whole_models_give_the_numbers_of_the_blocks(monkeypatch, shape, name):
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: emulated_varlen)
    use_eager_flex(monkeypatch)
    monkeypatch.setitem(SHAPES, "granite", ("granite", {**SHAPES["granite"][1], "attention_multiplier": 0.5}))
    net = tiny_model(shape, FP64)
    batch = pack(make_rows(6, seed=2), STEP)

    def value_and_gradient(kernel):
        monkeypatch.setattr("orpo_lightning.models.attention.packed.kernel_for", lambda *call: kernel)
        net.zero_grad()
        table = LogpModel(net, "packed")(batch, prompt_logps=True)
        (table.logps.sin().sum() + table.prompt_logps.cos().sum()).backward()
        return [table.logps.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])]

    expected = value_and_gradient(BlockAttention)
    for one, other in zip(value_and_gradient(KERNELS[name]), expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()  # some norms round to fp32


def test_the_masks_of_a_batch_are_made_once_for_policy_and_reference():
    batch, other = (pack(rows, step_info(rows)) for rows in (make_rows(2), make_rows(2, seed=1)))
    assert layout_of(batch) is layout_of(batch)
    assert layout_of(other) is not layout_of(batch)
    policy, reference = (LogpModel(tiny_model("llama", seed=seed), "packed") for seed in (0, 1))
    with torch.inference_mode():
        of_validation = layout_of(batch)
        policy(batch)
    with torch.no_grad():
        reference(batch)
    policy(batch).logps.sum().backward()  # by none of those that were made in inference mode
    assert layout_of(batch) is not of_validation


def test_activations_are_recomputed_by_the_same_kernel(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: emulated_varlen)
    monkeypatch.setattr(VarlenAttention, "obstacle", staticmethod(lambda call: None))
    checked = []
    found = check._value_and_gradients
    monkeypatch.setattr(check, "_value_and_gradients", lambda *a: checked.append(a) or found(*a))
    gradients = []
    for recompute in (False, True):
        kernel_for.cache_clear()
        disagreement.cache_clear()
        net = load_causal_lm(PolicyConfig("tiny", gradient_checkpointing=recompute))
        model = LogpModel(net, "packed", Kernels("varlen")).train()
        model(pack(make_rows(3), STEP)).logps.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert checked  # amid a layer, whose recomputation must not count what the check has saved
    torch.testing.assert_close(gradients[1], gradients[0])
