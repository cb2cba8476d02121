"""Training an adapter: the same promises as for all weights, and checkpoints that hold the adapter only."""

import peft
import pytest
import torch
from helpers import run, slow
from lightning.pytorch.callbacks import ModelCheckpoint
from reference_runs import StopAt, StoppedError

from orpo_lightning import (
    DPO,
    ORPO,
    LoraConfig,
    OptimizerConfig,
    PolicyConfig,
    PreferenceModule,
    ReferenceConfig,
    ScheduleConfig,
)
from orpo_lightning.models.loading import load_causal_lm
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.testing import make_rows

SAVED = ["final_layer_norm"]


def train(base, objective, *, lora=None, policy=None, layout="auto", **options):
    lora = LoraConfig(r=4, modules_to_save=SAVED) if lora is None else lora
    # Adam moves B away from 0 in the first step, so that A is trained too
    module = {
        "policy": PolicyConfig(base, dtype="float64", lora=lora, **(policy or {})),
        "optimizer": OptimizerConfig(lr=1e-2),
        "layout": layout,
    }
    return run(objective, make_rows(22), make_rows(5, seed=9), module_class=PreferenceModule, module=module, **options)


def assert_same(found, expected, tolerance=1e-10):
    assert len(found.history) == len(expected.history)
    for (step, values), (wanted_step, wanted) in zip(found.history, expected.history, strict=True):
        assert step == wanted_step
        assert values == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    for gradient, wanted in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=tolerance * wanted.abs().max().item())


@pytest.mark.parametrize("objective", [slow(ORPO), DPO])
def test_accumulation_and_layout_change_nothing(base, objective):
    whole = train(base, objective())
    assert_same(train(base, objective(), accumulate_grad_batches=4), whole)
    assert_same(train(base, objective(), layout="padded", accumulate_grad_batches=2), whole)
    assert_same(train(base, objective(), policy={"gradient_checkpointing": True}), whole)


def test_only_the_adapter_moves_and_the_optimizer_has_nothing_else(base):
    found = train(base, ORPO())
    start = dict(load_causal_lm(PolicyConfig(base, dtype="float64")).named_parameters())
    moved = set()
    for name, parameter in found.module.policy.net.get_base_model().named_parameters():
        plain = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        if plain in start:
            assert torch.equal(parameter, start[plain]), name
        else:
            moved.add(name)
    (optimizer,) = found.trainer.optimizers
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(weights) == len(moved) == len([p for p in found.module.parameters() if p.requires_grad])
    assert found.history[-1][1] != pytest.approx(found.history[0][1])


def test_a_checkpoint_holds_the_adapter_only(tmp_path):
    # large enough that the difference shows
    net = tiny_model("llama")
    net.resize_token_embeddings(20_000)
    net.save_pretrained(tmp_path / "base")
    found = train(str(tmp_path / "base"), DPO(), lora=LoraConfig(r=2), max_steps=1)
    found.trainer.save_checkpoint(tmp_path / "last.ckpt")
    base = sum(path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors"))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all("lora_" in name for name in saved["state_dict"])
    # weights and two moments in fp64
    trained = 3 * 8 * sum(p.numel() for p in found.module.parameters() if p.requires_grad)
    size = (tmp_path / "last.ckpt").stat().st_size
    assert size < trained + 60_000 < base / 10


def test_a_checkpoint_goes_on_only_with_the_base_it_was_trained_on(base, tmp_path):
    found = train(base, ORPO(), max_epochs=1)
    found.trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = train(base, ORPO(), ckpt_path=tmp_path / "last.ckpt", max_epochs=1)
    assert torch.equal(resumed.weights, found.weights)
    tiny_model("opt", torch.float64, seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"an adapter of another base model.*set model.policy.name_or_path, model.policy.dtype, "
    ):
        train(str(tmp_path / "other"), ORPO(), ckpt_path=tmp_path / "last.ckpt")
    other_strength = LoraConfig(r=4, alpha=32.0, modules_to_save=SAVED)
    with pytest.raises(ValueError, match=r"model\.policy\.lora\.alpha = 32\.0, but the run of .* has 16\.0"):
        train(base, ORPO(), lora=other_strength, ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"of a run with a LoRA adapter, this run has none: set model.policy.lora"):
        train(base, ORPO(), lora=LoraConfig(), ckpt_path=tmp_path / "last.ckpt")
    full = train(base, ORPO(), lora=LoraConfig(), max_epochs=1)
    full.trainer.save_checkpoint(tmp_path / "full.ckpt")
    with pytest.raises(ValueError, match=r"of a run without an adapter, this run has one: set model.policy.lora.r = 0"):
        train(base, ORPO(), ckpt_path=tmp_path / "full.ckpt")


@pytest.mark.parametrize("reference", ["adapter", slow("copy"), slow("cached")])
@pytest.mark.parametrize("dropout", [slow(0.0), 0.3])
def test_an_interrupted_run_ends_bit_for_bit_where_an_uninterrupted_one_does(base, tmp_path, reference, dropout):
    def once(folder, *callbacks, **options):
        saver = ModelCheckpoint(folder, "last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False)
        module = {
            "policy": PolicyConfig(base, dtype="float64", lora=LoraConfig(r=4, dropout=dropout)),
            "optimizer": OptimizerConfig(lr=1e-2),
            "reference": ReferenceConfig(mode=reference),
        }
        return run(
            DPO(), module_class=PreferenceModule, module=module, callbacks=[saver, *callbacks],
            enable_checkpointing=True, accumulate_grad_batches=2, **options,
        )  # fmt: skip

    straight = once(tmp_path / "straight")
    with pytest.raises(StoppedError):
        once(tmp_path / "parts", StopAt(7))
    resumed = once(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert len(resumed.history) < len(straight.history)
    assert torch.equal(resumed.weights, straight.weights)


def test_a_run_goes_on_from_an_adapter_that_peft_saved(base, tmp_path):
    first = train(base, ORPO(), max_epochs=1)
    first.module.policy.net.save_pretrained(tmp_path / "adapter")
    lora = LoraConfig(adapter=str(tmp_path / "adapter"))
    second = train(base, DPO(), lora=lora, max_epochs=1)
    # the reference has the adapter: DPO starts at ln 2, which the run itself insists on
    assert second.history[0][1]["train/loss"] == pytest.approx(0.6931471805599453, rel=1e-12)
    assert second.history[0][1]["train/logps/chosen"] != pytest.approx(first.history[0][1]["train/logps/chosen"])
    net = peft.PeftModel.from_pretrained(load_causal_lm(PolicyConfig(base, dtype="float64")), tmp_path / "adapter")
    torch.testing.assert_close(
        second.module.reference.net(torch.arange(3, 20)[None]).logits, net(torch.arange(3, 20)[None]).logits
    )


def test_dropout_of_the_adapter_warns_like_any_dropout(base):
    with pytest.warns(UserWarning, match="with dropout the loss depends on how a global batch is split"):
        train(base, ORPO(), lora=LoraConfig(r=4, dropout=0.1), max_steps=1)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "32-true"), ("float32", "bf16-mixed")])
@pytest.mark.parametrize("reference", ["adapter", slow("copy"), slow("cached")])
def test_it_trains_in_half_precision(base, dtype, precision, reference):
    module = {
        "policy": PolicyConfig(base, dtype=dtype, lora=LoraConfig(r=4)),
        "optimizer": OptimizerConfig(lr=1e-2),
        "reference": ReferenceConfig(mode=reference),
    }
    found = run(DPO(beta=1.0), module_class=PreferenceModule, module=module, precision=precision, max_epochs=4)
    losses = [logged["train/loss"] for _, logged in found.history]
    assert losses[0] == pytest.approx(0.6931, abs=0.02)
    assert losses[-1] < 0.6
    # the adapter keeps its precision, whatever that of the base
    assert {p.dtype for p in found.module.parameters() if p.requires_grad} == {torch.float32}


HEAD = LoraConfig(r=4, modules_to_save=["lm_head"])
IN_BF16 = {
    "policy": PolicyConfig("tiny", dtype="bfloat16", lora=HEAD),
    "optimizer": OptimizerConfig(lr=1e-5),
    "schedule": ScheduleConfig("constant"),
}


def head_of(module):
    (weight,) = (weight for name, weight in module.named_parameters() if "lm_head.modules_to_save" in name)
    return weight.detach()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_updates_that_bf16_would_lose_reach_a_head_that_is_trained_in_full_over_weights_in_bf16(precision):
    found = run(ORPO(), module_class=PreferenceModule, module=IN_BF16, precision=precision, max_steps=1)
    head = head_of(found.module)
    start = load_causal_lm(PolicyConfig("tiny", dtype="bfloat16")).lm_head.weight.float()
    assert head.dtype == torch.float32
    assert (head != start).float().mean() > 0.999
    # rounded to bf16 most of them are still where they were
    assert (head.bfloat16() != start.bfloat16()).float().mean() < 0.5


def test_a_checkpoint_from_when_such_a_head_was_kept_in_bf16_goes_on(tmp_path):
    def fit(**options):
        return run(ORPO(), module_class=PreferenceModule, module=IN_BF16, max_epochs=2, **options)

    straight = fit()
    fit(max_steps=3).trainer.save_checkpoint(tmp_path / "last.ckpt")
    older = torch.load(tmp_path / "last.ckpt", weights_only=True)
    numbers = dict(enumerate(name for name, each in straight.module.named_parameters() if each.requires_grad))
    of_head = next(name for name in older["state_dict"] if "lm_head" in name)
    older["state_dict"][of_head] = older["state_dict"][of_head].bfloat16()
    (state,) = (each["state"] for each in older["optimizer_states"])
    for number, name in numbers.items():
        if name == of_head:
            state[number] |= {key: state[number][key].bfloat16() for key in ("exp_avg", "exp_avg_sq")}
    torch.save(older, tmp_path / "older.ckpt")
    exact, rounded = (fit(ckpt_path=tmp_path / name) for name in ("last.ckpt", "older.ckpt"))
    assert torch.equal(exact.weights, straight.weights)
    assert head_of(rounded.module).dtype == torch.float32
    (optimizer,) = rounded.trainer.optimizers
    assert {each["exp_avg"].dtype for each in optimizer.state.values()} == {torch.float32}
    assert not torch.equal(rounded.weights, exact.weights)
    torch.testing.assert_close(rounded.weights, exact.weights, rtol=2**-8, atol=1e-4)
