"""What a step would hold, against what a step of the same model with its weights does hold."""

from dataclasses import replace

import pytest
import torch
from helpers import slow, slow_but
from transformers import AutoConfig

from orpo_lightning.memory import Copies, Moment, need
from orpo_lightning.models import footprint
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.footprint import StepOfModel, footprint_of
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.modules.optimization import OptimizerConfig, build_optimizer
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

INFO = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)
BATCH = pack(make_rows(6), INFO)
ADAMW = OptimizerConfig()


def folder_of(tmp_path, shape, **options):
    """A folder that holds the settings of a model, and no weights."""
    model_type, own = SHAPES[shape]
    AutoConfig.for_model(model_type, **{**own, **options}).save_pretrained(tmp_path / shape)
    return str(tmp_path / shape)


def step_of(name, optimizer=ADAMW, fused=True, **options):
    policy = {key: options.pop(key) for key in ("lora", "gradient_checkpointing", "load_in_4bit") if key in options}
    policy["dtype"] = options.pop("weights", "float32")
    return StepOfModel(
        PolicyConfig(name, **policy), lambda weights: build_optimizer(optimizer, weights, fused=fused), **options
    )


def bytes_of(tensors):
    return sum({each.data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def largest(found, component="activations"):
    return max(getattr(each, component) for each in found.moments)


@pytest.mark.parametrize("shape", slow_but(["opt", "llama", "gpt2"], SHAPES))
def test_weights_gradients_and_state_are_those_of_the_model_after_a_step(tmp_path, shape):
    found = footprint_of(step_of(folder_of(tmp_path, shape)), BATCH)
    net = tiny_model(shape)
    optimizer = build_optimizer(ADAMW, net.named_parameters())
    LogpModel(net, "auto" if shape in ("opt", "llama") else "padded")(BATCH, prompt_logps=True).logps.sum().backward()
    optimizer.step()
    assert found.weights.total == bytes_of([*net.parameters(), *net.buffers()])
    assert found.gradients.total == bytes_of(net.parameters())
    assert found.state == bytes_of(each for state in optimizer.state.values() for each in state.values())
    assert found.gradients == found.arriving == found.reduced
    assert found.reference.total == 0


@pytest.mark.parametrize("shape", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16 products"])
def test_the_decoder_leaves_behind_what_autograd_saves_of_it(tmp_path, shape, autocast):
    found = footprint_of(step_of(folder_of(tmp_path, shape), autocast=autocast), BATCH)
    net = tiny_model(shape)
    model = LogpModel(net, "packed", Kernels(attention="blocks"))
    model(BATCH)  # which layout is right has been found out
    others = [*net.parameters(), *net.buffers(), *(each for each in vars(BATCH).values() if torch.is_tensor(each))]
    known = {each.untyped_storage().data_ptr() for each in others}
    saved, over = {}, []
    net.get_decoder().register_forward_hook(lambda *_: over.append(True))

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and not over:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    products = torch.autocast("cpu", autocast, enabled=autocast is not None)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), products:
        table = model(BATCH, prompt_logps=True)
    masks = [mask.numel() for mask in BlockAttention(BATCH.groups, torch.device("cpu")).masks if mask is not None]
    # by the end of the backward pass of the head, when copies of weights that nobody saves are gone
    *_, held = (each.activations for each in found.moments if each.when == "head")
    assert table.logps.requires_grad
    stream = BATCH.input_ids.nbytes + BATCH.position_ids.nbytes
    assert held == pytest.approx(sum(saved.values()) + sum(masks) + stream, abs=16)


def test_what_an_adapter_trains_over_weights_in_bf16_is_counted_in_fp32(tmp_path):
    lora = LoraConfig(r=4, modules_to_save=["lm_head"])
    step = step_of(folder_of(tmp_path, "llama"), weights="bfloat16", lora=lora)
    found = footprint_of(step, BATCH)
    tiny_model("llama").save_pretrained(step.policy.name_or_path)
    net = load_causal_lm(step.policy)
    optimizer = build_optimizer(ADAMW, net.named_parameters())
    LogpModel(net)(BATCH, prompt_logps=True).logps.sum().backward()
    optimizer.step()
    trained = [each for each in net.parameters() if each.requires_grad]
    assert found.gradients.total == 4 * sum(each.numel() for each in trained) == bytes_of(trained)
    assert found.state == bytes_of(each for state in optimizer.state.values() for each in state.values())
    assert found.weights.total == bytes_of([*net.parameters(), *net.buffers()])


@pytest.mark.parametrize("shape", ["llama", slow("opt"), slow("gpt2")])
@pytest.mark.parametrize("dtype", ["bfloat16", slow("float32")])
def test_weights_in_4_bits_are_counted_with_their_scales(tmp_path, shape, dtype):
    lora = LoraConfig(r=4, modules_to_save=["lm_head"])
    step = step_of(folder_of(tmp_path, shape), weights=dtype, lora=lora, load_in_4bit=True)
    found = footprint_of(step, BATCH)
    tiny_model(shape).save_pretrained(step.policy.name_or_path)
    net = load_causal_lm(step.policy)
    optimizer = build_optimizer(ADAMW, net.named_parameters())
    LogpModel(net)(BATCH, prompt_logps=True).logps.sum().backward()
    optimizer.step()
    states = [each.quant_state for each in net.parameters() if hasattr(each, "quant_state")]
    assert len(states) > 2 * net.config.num_hidden_layers
    scales = [scale for state in states for scale in (state.absmax, state.state2.absmax)]
    assert found.weights.total == bytes_of([*net.parameters(), *net.buffers(), *scales])
    assert found.gradients.total == bytes_of(each for each in net.parameters() if each.requires_grad)
    assert found.state == bytes_of(each for state in optimizer.state.values() for each in state.values())


def test_the_numbers_that_weights_in_4_bits_stand_for_are_there_one_layer_at_a_time(tmp_path):
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3}
    folder, batch = folder_of(tmp_path, "llama", **wide), pack(make_rows(1), INFO)
    options = {"weights": "bfloat16", "lora": LoraConfig(r=4), "gradient_checkpointing": True}
    whole, found = (footprint_of(step_of(folder, load_in_4bit=each, **options), batch) for each in (False, True))
    numbers = 2 * 1024 * 4096
    assert found.weights.total < 0.35 * whole.weights.total
    assert largest(whole) < 0.4 * numbers
    assert numbers < largest(found) < 1.6 * numbers


CASES = {
    "fp32": {},
    "bf16 products": {"autocast": torch.bfloat16},
    "bf16": {"dtype": torch.bfloat16},
    "micro-batches that add up": {"adds_up": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "both": {"gradient_checkpointing": True, "autocast": torch.bfloat16, "adds_up": True},
    "an adapter, switched off for the reference": {"lora": LoraConfig(r=4), "adapter_off": True},
    "a head trained in full on bf16": {
        "weights": "bfloat16",
        "lora": LoraConfig(r=4, modules_to_save=["lm_head"]),
    },
    "padded": {"layout": "padded"},
    "responses alone": {"prompt_logps": False},
}


@pytest.mark.parametrize(
    ("case", "shape"), slow_but(["fp32", "both"], [*((each, "llama") for each in CASES), ("both", "opt")])
)
def test_tensors_without_memory_come_and_go_as_those_with_values_do(tmp_path, shape, case):
    """The same operations on real weights, which are read, and real tokens; what is compared is every moment."""
    folder = folder_of(tmp_path, shape)
    step = step_of(folder, **CASES[case])
    found = footprint_of(step, BATCH)
    tiny_model(shape).save_pretrained(folder)
    net = load_causal_lm(step.policy)
    net = net if step.dtype is None else torch.nn.Module.to(net, step.dtype)
    real = [moment for _, moment in footprint._run(step, net, None, BATCH)]
    # of the padded layout transformers looks at the mask's values, which may spare another copy of it
    tolerance = 0.1 if step.layout == "padded" else 0.02
    for name in Moment._fields[1:]:
        expected = max(getattr(each, name) for each in real)
        assert largest(found, name) == pytest.approx(expected, rel=tolerance), name
    assert need(found, Copies()).total == pytest.approx(need(replace(found, moments=real), Copies()).total, tolerance)
    assert {each.when for each in found.moments} == {each.when for each in real}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fp32", "both", "an adapter, switched off for the reference"])
def test_the_moments_of_many_layers_follow_from_those_of_two_and_three(tmp_path, monkeypatch, case):
    deep = {"num_hidden_layers": 7}
    step = step_of(folder_of(tmp_path, "llama", **deep), **CASES[case])
    short = footprint_of(step, BATCH)
    monkeypatch.setattr(footprint, "_are_alike", lambda net: False)
    whole = footprint_of(step, BATCH)
    assert replace(short, moments=()) == replace(whole, moments=())
    assert len(short.moments) < len(whole.moments)
    for name in Moment._fields[1:]:
        assert largest(short, name) == largest(whole, name), name
    assert need(short, Copies()) == need(whole, Copies())


def test_layers_that_differ_are_all_run(tmp_path):
    folder = folder_of(tmp_path, "gemma3", num_hidden_layers=8)
    every_layer = footprint_of(step_of(folder), BATCH)
    assert every_layer.weights.layers > 7 * every_layer.weights.largest
    assert largest(every_layer) > 0


def test_a_second_model_is_there_beside_the_policy(tmp_path):
    folder = folder_of(tmp_path, "llama", num_hidden_layers=5)
    alone, both = (footprint_of(step_of(folder, reference=each), BATCH) for each in (None, PolicyConfig(folder)))
    assert both.reference == alone.weights
    assert largest(both, "reference") > 0 == largest(alone, "reference")
    assert largest(both) == largest(alone)


@pytest.mark.slow
def test_more_tokens_never_need_less(tmp_path):
    folder = folder_of(tmp_path, "llama")
    steps = [pack(make_rows(count), INFO) for count in (1, 2, 4, 8, 16)]
    totals = [need(footprint_of(step_of(folder), batch), Copies()).total for batch in steps]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


@pytest.mark.slow
def test_an_adapter_never_needs_more_than_all_weights(tmp_path):
    folder = folder_of(tmp_path, "llama", hidden_size=256, intermediate_size=512, num_hidden_layers=4)
    full, adapter = (footprint_of(step_of(folder, lora=lora), BATCH) for lora in (LoraConfig(), LoraConfig(r=4)))
    assert adapter.gradients.total < full.gradients.total / 10
    assert adapter.state < full.state / 10
    assert full.weights.total < adapter.weights.total < 1.1 * full.weights.total
    assert need(adapter, Copies()).total < need(full, Copies()).total


@pytest.mark.slow
def test_an_adapter_to_go_on_with_is_known_by_its_settings(tmp_path):
    folder, fresh = folder_of(tmp_path, "llama"), LoraConfig(r=4, modules_to_save=["lm_head"])
    tiny_model("llama").save_pretrained(folder)
    load_causal_lm(PolicyConfig(folder, lora=fresh)).save_pretrained(tmp_path / "adapter")
    given = LoraConfig(adapter=str(tmp_path / "adapter"))
    new, old = (footprint_of(step_of(folder, lora=lora), BATCH) for lora in (fresh, given))
    assert old.gradients == new.gradients
    assert need(old, Copies()) == need(new, Copies())


@pytest.mark.slow
def test_layers_that_are_gathered_in_bf16_leave_no_copies_of_their_weights(tmp_path):
    options = {"autocast": torch.bfloat16, "reduced": torch.float32}
    folder = folder_of(tmp_path, "llama", num_hidden_layers=6)
    copies, gathered = (
        footprint_of(step_of(folder, gathered=each, **options), BATCH) for each in (None, torch.bfloat16)
    )
    assert gathered.weights == copies.weights
    assert gathered.gradients == gathered.reduced == copies.gradients
    assert gathered.gathered.layers == gathered.arriving.layers == copies.weights.layers // 2
    assert gathered.gathered.root == copies.gathered.root, "embeddings and head are gathered as they are"
    saved = largest(copies) - largest(gathered)
    assert saved == pytest.approx(gathered.gathered.layers, rel=0.05)


def test_a_layer_that_an_adapter_trains_a_copy_of_is_gathered_with_the_embeddings(tmp_path):
    folder = folder_of(tmp_path, "llama", num_hidden_layers=3)
    lora = LoraConfig(r=4, modules_to_save=["layers.1"])
    copied, plain = (
        footprint_of(step_of(folder, lora=each, gathered=torch.bfloat16), BATCH) for each in (lora, LoraConfig(r=4))
    )
    assert copied.gathered.largest == plain.gathered.largest
    assert copied.gathered.layers == 2 * plain.gathered.largest
    layer, *_ = tiny_model("llama").model.layers
    assert copied.gathered.root == plain.gathered.root + 2 * bytes_of(layer.parameters()), "in fp32, and its base's"
    *_, last = (each for each in copied.moments if each.when == "backward")
    assert last.root_gradients == copied.arriving.root == bytes_of(layer.parameters())


@pytest.mark.parametrize(
    ("optimizer", "state", "stepping"),
    [
        (OptimizerConfig(), 2, 0),
        (OptimizerConfig(algorithm="torch.optim.SGD"), 0, 0),
        (OptimizerConfig(algorithm="torch.optim.SGD", options={"momentum": 0.9}), 1, 0),
        (OptimizerConfig(options={"amsgrad": True}), 3, 0),
        (OptimizerConfig(options={"foreach": True}), 2, 1),
    ],
    ids=lambda each: f"{each.algorithm} {each.options}" if isinstance(each, OptimizerConfig) else str(each),
)
def test_the_state_of_an_optimizer_is_that_of_its_class(tmp_path, optimizer, state, stepping):
    found = footprint_of(step_of(folder_of(tmp_path, "llama"), optimizer), BATCH)
    weights, tensors = found.weights.total, len([*tiny_model("llama").parameters()])
    assert found.state == pytest.approx(state * found.gradients.total, abs=4 * tensors)
    assert found.stepping == pytest.approx(stepping * found.gradients.total, abs=0.1 * weights)


def test_an_optimizer_that_asks_for_numbers_gets_one(tmp_path):
    found = footprint_of(
        step_of(folder_of(tmp_path, "llama"), OptimizerConfig(algorithm="torch.optim.Adafactor")), BATCH
    )
    assert 0 < found.state < found.weights.total / 4, "a row and a column for each matrix"


def test_on_an_accelerator_blocks_of_logits_are_larger_and_keys_are_repeated_in_one_piece(tmp_path):
    folder = folder_of(tmp_path, "llama", vocab_size=60_000)
    batch = pack(make_rows(40, vocabulary=60_000), INFO)
    on_cpu, on_gpu = (footprint_of(step_of(folder, device_type=kind), batch) for kind in ("cpu", "cuda"))
    logits = 4 * 60_000 * batch.score_index.numel()
    assert largest(on_gpu, "head") > logits > largest(on_cpu, "head") - 4 * 32 * 60_000
    assert largest(on_gpu) == pytest.approx(largest(on_cpu), rel=0.3)
