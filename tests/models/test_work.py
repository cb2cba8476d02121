"""The size of a model that work is computed from, held against what torch counts while models of many kinds run."""

import pytest
import torch
from helpers import run
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from orpo_lightning import ORPO
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tiny import SHAPES
from orpo_lightning.models.work import ModelSize
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

_, LLAMA = SHAPES["llama"]
STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
KINDS = {
    "heads of a size": ("qwen3", {**LLAMA, "head_dim": 12}),
    "heads whose size differs between layers": (
        "gemma4_text",
        {
            **LLAMA,
            "layer_types": ["sliding_attention", "full_attention"],
            "head_dim": 8,
            "global_head_dim": 16,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
        },
    ),
    "latent attention": ("deepseek_v3", {**LLAMA, **LATENT, "first_k_dense_replace": 2}),
    "experts": ("mixtral", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
}
JAMBA = {**LLAMA, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 4, "expert_layer_offset": 3}


def model_of(model_type, options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **options)
    # the implementations that torch counts the work of
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager").eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_gives_what_torch_counts(kind):
    net, rows, tokens = model_of(*KINDS[kind]), 3, 7
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(input_ids=torch.randint(3, 97, (rows, tokens)), use_cache=False)
    size = ModelSize.of(net)
    in_full = 4 * size.attention * rows * tokens**2  # eager attention multiplies each query with each key
    assert counter.get_total_flops() == 2 * (size.linear + size.head) * rows * tokens + in_full


def test_a_layer_without_attention_has_no_width():
    assert ModelSize.of(model_of("jamba", JAMBA)).attention == LLAMA["hidden_size"]  # that of the other layer


def test_a_vision_tower_is_not_run():
    text, vision = {**LLAMA, "head_dim": 8}, {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    with_vision = model_of("gemma3", {"text_config": text, "vision_config": {**vision, "num_attention_heads": 2}})
    assert ModelSize.of(with_vision) == ModelSize.of(model_of("gemma3_text", text))


def test_a_model_that_does_not_tell_its_size_is_scored_all_the_same():
    options = {**LLAMA, "moe_num_experts": 4, "moe_topk": 2}
    model = LogpModel(model_of("aria_text", options), "padded")
    assert model.size is None
    assert model(pack(make_rows(2), STEP)).logps.isfinite().all()


def test_without_a_size_no_work_is_logged(monkeypatch):
    monkeypatch.setattr(ModelSize, "of", lambda net: None)
    found = run(ORPO(), make_rows(8), callbacks=[Throughput()])
    logged = set().union(*(values for _, values in found.history))
    assert "time/tokens_per_s" in logged
    assert not logged & {"work/tflop", "work/saved_by_sharing", "time/mfu"}
