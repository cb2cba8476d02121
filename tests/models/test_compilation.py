"""Compiled layers: the same numbers, one compilation for batches of all sizes, and none for generation."""

import functools

import pytest
import torch
from helpers import run
from lightning.pytorch.callbacks import Callback
from torch import nn

from orpo_lightning import DPO, LoraConfig, OptimizerConfig, PreferenceModule
from orpo_lightning.models.compilation import compile_layers
from orpo_lightning.models.generation import Sampling, generate
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig, load_causal_lm, reference_policy
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.reference import AdapterOff
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

OTHERS = sorted(set(SHAPES) - {"opt", "gemma2", "gemma3", "bloom"})  # those that cannot run packed
STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)
BATCHES = [make_rows(pairs, seed=pairs) for pairs in (3, 1, 2, 5, 4, 7, 6, 9, 8, 10, 11, 12)]


@pytest.fixture
def traced_only(monkeypatch):
    """Layers are traced as for compilation, but run as they are: what a compiler makes of them takes long."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.fixture(autouse=True)
def graphs():
    """Tells how many graphs have been made."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def logps_and_gradients(model, rows):
    table = model(pack(rows, STEP), prompt_logps=True)
    loss = table.logps.sin().sum() + table.prompt_logps.sin().sum()
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def check(shape, graphs, tolerance=1e-10):
    plain, compiled = (tiny_model(shape, torch.float64) for _ in range(2))
    compile_layers(compiled)
    plain, compiled = LogpModel(plain, "packed"), LogpModel(compiled, "packed")
    made = []
    for rows in BATCHES:
        for one, other in zip(logps_and_gradients(plain, rows), logps_and_gradients(compiled, rows), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, other.abs().max().item()))
        made.append(graphs())
    assert made[0] > 0
    assert made[-1] == made[1], made


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("shape", ["opt", *OTHERS])
def test_the_numbers_are_the_same_and_no_batch_is_compiled_for_anew(shape, graphs):
    check(shape, graphs)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "tolerance"), [("opt", 1e-10), ("llama", 3e-5)])  # llama's norm rounds to fp32
def test_with_the_real_compiler(shape, tolerance, graphs):
    check(shape, graphs, tolerance)


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("shape", ["opt", "llama"])
def test_a_run_with_an_adapter_its_reference_and_validation_is_compiled_in_its_first_round_only(
    shape, graphs, tmp_path
):
    tiny_model(shape, torch.float64).save_pretrained(tmp_path)
    made = []

    class Counting(Callback):
        def on_validation_end(self, trainer, pl_module):
            made.append(graphs())

    def train(compiled):
        policy = PolicyConfig(str(tmp_path), dtype="float64", lora=LoraConfig(r=4), compile_layers=compiled)
        return run(
            DPO(),
            make_rows(40),
            make_rows(9, seed=9),
            module_class=PreferenceModule,
            module={"policy": policy, "optimizer": OptimizerConfig(lr=1e-2)},
            val_check_interval=2,
            callbacks=[Counting()],
        )

    expected = train(compiled=False)
    assert not any(made)
    made.clear()
    # else torch would run the ninth variant as it is written, with no more than a line in its log
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        found = train(compiled=True)
    assert isinstance(found.module.reference, AdapterOff)
    assert len(made) > 4
    assert made[0] > 0
    assert set(made) == {made[0]}
    for (step, values), (wanted_step, wanted) in zip(found.history, expected.history, strict=True):
        assert step == wanted_step
        assert values == pytest.approx(wanted, rel=1e-10, abs=1e-10)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("traced_only")
def test_generation_runs_layers_as_they_are_written(graphs):
    net, tokenizer = load_causal_lm(PolicyConfig("tiny", compile_layers=True)), load_tokenizer("tiny")
    prompts = [tokenizer.encode("What is red?"), tokenizer.encode("Why?")]
    found = generate(net, tokenizer, prompts, ["a", "b"], Sampling(max_new_tokens=5))
    assert graphs() == 0
    assert found == generate(
        load_causal_lm(PolicyConfig("tiny")), tokenizer, prompts, ["a", "b"], Sampling(max_new_tokens=5)
    )


def test_the_reference_is_compiled_as_the_policy_is():
    def are_compiled(net):
        return {layer._compiled_call_impl is not None for layer in net.get_decoder().layers}

    for wanted in (True, False):
        policy = PolicyConfig("tiny", compile_layers=wanted)
        assert (
            are_compiled(load_causal_lm(policy))
            == are_compiled(load_causal_lm(reference_policy(ReferenceConfig(), policy)))
            == {wanted}
        )


def test_gradient_checkpointing_which_switches_compilation_off_is_refused_beside_it():
    with pytest.raises(ValueError, match=r"model.policy.compile_layers and model.policy.gradient_checkpointing"):
        PolicyConfig("tiny", compile_layers=True, gradient_checkpointing=True)


def test_the_names_of_the_weights_stay():
    net = tiny_model("llama")
    names = list(net.state_dict())
    compile_layers(net)
    assert list(net.state_dict()) == names


def test_a_model_without_layers_of_its_kind_is_refused():
    class Plain(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"model.policy.compile_layers = true, but Plain has no layers"):
        compile_layers(Plain())
