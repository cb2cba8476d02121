"""FSDP1, of which the command makes use on GPUs alone: torch itself runs it on CPUs too."""

from pathlib import Path

import pytest
import torch
from helpers import fsdp1_on_cpus, leave_together, run, run_on_two_ranks
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from orpo_lightning import ORPO, OptimizerConfig, PreferenceModule, ScheduleConfig
from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.models.adapters import LoraConfig
from orpo_lightning.models.layers import decoder_layers
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.ranks import place_among_ranks
from orpo_lightning.strategies import FSDP1Strategy, FSDP2Strategy
from orpo_lightning.strategies.flat_units import units_of


@pytest.mark.parametrize("kind", ["NO_SHARD", "HYBRID_SHARD", "SHARD_GRAD_OP"])
def test_copies_of_parts_are_refused_as_the_norm_of_gradients_would_count_each(kind):
    strategy = FSDP1Strategy(sharding_strategy=kind, device_mesh=(1, 1) if kind == "HYBRID_SHARD" else None)
    with pytest.raises(ValueError, match=f"sharding_strategy = {kind}; accepted: FULL_SHARD"):
        strategy.setup_environment()


class Module(LightningModule):
    """A policy of which one layer is trained, and another one that is not trained at all."""

    def __init__(self):
        super().__init__()
        self.policy = nn.ModuleDict({"frozen": nn.Linear(2, 2).requires_grad_(False), "trained": nn.Linear(2, 2)})
        self.reference = nn.Linear(2, 2).requires_grad_(False)


TRAINED = ["policy.trained.weight", "policy.trained.bias"]
FROZEN = ["policy.frozen.weight", "policy.frozen.bias", "reference.weight", "reference.bias"]


def load(*names):
    """Load weights of sevens, in one process, where none is shared out; the state after it."""
    strategy, module = FSDP1Strategy(), Module()
    strategy.connect(module)
    shapes = {name: each.shape for name, each in module.state_dict().items()}
    strategy.load_model_state_dict(
        {"state_dict": {name: torch.full(shapes.get(name, (2,)), 7.0) for name in names}}, strict=True
    )
    return {name for name, each in module.state_dict().items() if (each == 7).all()}


def test_the_weights_that_are_trained_are_loaded_whether_the_frozen_ones_are_there_or_not():
    assert load(*TRAINED) == {*TRAINED}
    assert load(*TRAINED, *FROZEN) == {*TRAINED}


def test_weights_that_are_missing_or_too_many_are_named():
    with pytest.raises(ValueError, match=r"another model: it lacks 1 of its weights \(policy\.trained\.bias\)$"):
        load(TRAINED[0])
    with pytest.raises(ValueError, match=r"another model: it has 1 too many \(policy\.gate\)$"):
        load(*TRAINED, "policy.gate")
    with pytest.raises(ValueError, match=r"lacks 1 .*bias\), and has 4 too many \(a, b, c, \.\.\.\)$"):
        load(TRAINED[0], *"abcd")


def of_tiny(**lora):
    return PolicyConfig("tiny", dtype="bfloat16", lora=LoraConfig(r=4, **lora))


def test_matrices_of_an_adapter_over_half_precision_are_gathered_by_themselves():
    net = load_causal_lm(of_tiny())
    units = list(units_of(net))
    layers = decoder_layers(net).values()
    assert set(layers) < set(units)
    for unit in units:
        own = [weight for weight in unit.parameters() if unit not in layers or not weight.requires_grad]
        assert {weight.dtype for weight in own} == {torch.bfloat16 if unit in layers else torch.float32}
    assert all(any(weight is each for unit in units for each in unit.parameters()) for weight in trained(net))


def trained(net):
    return [weight for weight in net.parameters() if weight.requires_grad]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("lm_head", "the embeddings, the last norm and the head"),
        ("q_proj", r"\S+\.layers\.0"),
        ("layers.0", "the embeddings, the last norm and the head"),
    ],
)
def test_modules_in_fp32_over_half_precision_are_refused_by_name(name, of):
    net = load_causal_lm(of_tiny(modules_to_save=[name], target_modules=["v_proj"]))
    words = rf"the weights of {of}, which are in bfloat16 and float32; accepted: model\.policy\.dtype float32"
    with pytest.raises(ValueError, match=words):
        list(units_of(net))


def test_an_adapter_in_one_process_is_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(FSDP1Strategy, "world_size", 1)
    with pytest.raises(ValueError, match=r"trains no adapter in one process; accepted: more devices"):
        FSDP1Strategy().build_model(of_tiny(), None)


PARTS, FILE, OTHER, WHOLE, ALONE = "FSDP1, a folder", "FSDP1, a file", "FSDP2", "DDP", "one process"
STRATEGIES = {
    PARTS: lambda: FSDP1Strategy(state_dict_type="sharded"),
    FILE: lambda: FSDP1Strategy(state_dict_type="full"),
    OTHER: FSDP2Strategy,
    WHOLE: DDPStrategy,
}
ARRANGEMENTS = [
    (PARTS, PARTS),
    (FILE, FILE),
    (PARTS, FILE),
    (PARTS, OTHER),
    (OTHER, PARTS),
    (FILE, WHOLE),
    (WHOLE, FILE),
]


def train(folder, steps, strategy=None, ckpt_path=None):
    """Some steps of a run that all decays in which may, with its last checkpoint in a folder."""
    together = {} if strategy is None else {"devices": 2, "strategy": STRATEGIES[strategy]()}
    return run(
        ORPO(),
        module_class=PreferenceModule,
        module={
            "policy": PolicyConfig(str(folder.parent / "base"), dtype="float64"),
            "optimizer": OptimizerConfig(lr=1e-2, weight_decay=0.1),
            "schedule": ScheduleConfig("constant", warmup=0),
        },
        max_steps=steps,
        gradient_clip_val=0.5,
        callbacks=[Checkpoints(every_n_steps=1, monitor=None)],
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=True,
        default_root_dir=folder,
        ckpt_path=ckpt_path,
        **together,
    )


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


def name_of(before, after):
    return f"{before} to {after}".replace(" ", "-").replace(",", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs that were stopped after two steps and went on in another way, of one launch of two processes."""
    place = tmp_path_factory.mktemp("fsdp1")
    tiny_model("opt", torch.float64).save_pretrained(place / "base")
    train(place / "whole", 5)
    train(place / name_of(ALONE, PARTS), 2)
    run_on_two_ranks(__file__, place)
    train(place / name_of(PARTS, ALONE), 5, ckpt_path=last(place / name_of(PARTS, ALONE)))
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [*ARRANGEMENTS, (ALONE, PARTS), (PARTS, ALONE)])
def test_a_run_goes_on_under_it_and_after_it_as_one_that_was_not_stopped(folder, before, after):
    found, expected = (
        SafeCheckpointIO().load_checkpoint(last(folder / name)) for name in (name_of(before, after), "whole")
    )
    assert found["global_step"] == expected["global_step"] == 5
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for name, weight in expected["state_dict"].items():
        # AdamW moves a weight whose gradient is next to nothing as far as any other
        torch.testing.assert_close(found["state_dict"][name], weight, rtol=1e-9, atol=1e-9)
    (optimizer,), (wanted,) = (each["optimizer_states"] for each in (found, expected))
    decays = [(group["weight_decay"], group["params"]) for group in optimizer["param_groups"]]
    assert decays == [(group["weight_decay"], group["params"]) for group in wanted["param_groups"]]
    for number, state in wanted["state"].items():
        torch.testing.assert_close(optimizer["state"][number]["exp_avg"], state["exp_avg"], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_what_is_gathered_at_a_time_is_a_decoder_layer(folder):
    gathered = (folder / "gathered.txt").read_text().split()
    assert gathered == ["PreferenceModule", *["OPTDecoderLayer"] * len(decoder_layers(tiny_model("opt")))]


def main(folder: Path) -> None:
    first = place_among_ranks()[0] == 0
    with fsdp1_on_cpus():
        for before, after in ARRANGEMENTS:
            place = folder / name_of(before, after)
            train(place, 2, before)
            train(place, 5, after, ckpt_path=last(place))
        place = folder / name_of(ALONE, PARTS)
        found = train(place, 5, PARTS, ckpt_path=last(place))
        train(folder / name_of(PARTS, ALONE), 2, PARTS)
    wrapped = FullyShardedDataParallel.fsdp_modules(found.trainer.strategy.model)
    if first:
        (folder / "gathered.txt").write_text("\n".join(type(each.module).__name__ for each in wrapped))
    leave_together()
