"""Settings, with and without init_args, by reference, from files of their own, appended by a layer."""

from pathlib import Path

import pytest
import yaml

VALUES = {
    "seed_everything": 3,
    "model.policy.name_or_path": "tiny",
    "model.policy.revision": "main",
    "model.policy.dtype": "bfloat16",
    "model.policy.attn_implementation": "eager",
    "model.policy.attention_kernel": "flex",
    "model.policy.head_kernel": "liger",
    "model.policy.gradient_checkpointing": True,
    "model.policy.lora.r": 4,
    "model.policy.lora.alpha": 8.0,
    "model.policy.lora.dropout": 0.5,
    "model.policy.lora.target_modules": ["q_proj"],
    "model.policy.lora.modules_to_save": ["lm_head"],
    "model.policy.lora.adapter": "somewhere",
    "model.reference.name_or_path": "tiny",
    "model.reference.revision": "main",
    "model.reference.mode": "copy",
    "model.layout": "padded",
    "model.optimizer.lr": 0.5,
    "model.optimizer.weight_decay": 0.5,
    "model.optimizer.algorithm": "torch.optim.SGD",
    "model.optimizer.options": {"momentum": 0.5},
    "model.schedule.name": "linear",
    "model.schedule.warmup": 3.0,
    "data.train": ["mine.jsonl", "sample"],
    "data.val": {"a": "a.jsonl", "b": "b.jsonl"},
    "data.format": "text",
    "data.columns": {"prompt": "question"},
    "data.global_batch_size": 4,
    "data.max_length": 64,
    "data.max_prompt_length": 32,
    "data.overlong": "truncate_prompt",
    "data.max_tokens_per_batch": 1000,
    "data.limit": 7,
    "data.num_workers": 2,
    "data.seed": 5,
    "trainer.max_epochs": 2,
    "trainer.max_steps": 9,
    "trainer.accumulate_grad_batches": 2,
    "trainer.gradient_clip_val": 0.5,
    "trainer.precision": "bf16-mixed",
    "trainer.accelerator": "cpu",
    "trainer.devices": "auto",
    "trainer.val_check_interval": 4,
    "trainer.limit_val_batches": 3,
    "trainer.default_root_dir": "here",
}
"""What users and scripts rely on."""


def setting(text, key):
    node = yaml.safe_load(text)
    for part in key.split("."):
        node = node["init_args"] if "init_args" in node and part not in node else node
        node = node[part]
    return node


def nested(values):
    root = {}
    for key, value in values.items():
        *blocks, name = key.split(".")
        node = root
        for block in blocks:
            node = node.setdefault(block, {})
        node[name] = value
    return root


def test_every_key_that_is_relied_on_is_taken_from_the_command_line(printed_config):
    options = [
        f"--{key}={yaml.safe_dump(value, default_flow_style=True).partition(chr(10))[0]}"
        for key, value in VALUES.items()
    ]
    printed = printed_config("fit", *options)
    assert {key: setting(printed, key) for key in VALUES} == VALUES


def test_every_key_that_is_relied_on_is_taken_from_a_file(printed_config):
    Path("mine.yaml").write_text(yaml.safe_dump(nested(VALUES)))
    printed = printed_config("fit", "--config", "mine.yaml")
    assert {key: setting(printed, key) for key in VALUES} == VALUES


def test_filters_are_named_with_their_arguments(printed_config):
    printed = printed_config("fit", "--data.filters", "[Duplicates, {class_path: SmallMargin, init_args: {least: 2}}]")
    assert [each["class_path"].rpartition(".")[2] for each in setting(printed, "data.filters")] == [
        "Duplicates",
        "SmallMargin",
    ]
    assert setting(printed, "data.filters")[1]["init_args"] == {"least": 2.0}


def test_a_mixture_is_printed_as_it_is_read(printed_config):
    mixture = '[{"path": "mine.jsonl", "weight": 2, "columns": {"prompt": "question"}}, "sample"]'
    printed = printed_config("fit", "--data.train", mixture, "--data.val", '{"a": "sample", "b": "b.jsonl"}')
    assert setting(printed, "data.train")[0]["weight"] == 2
    assert setting(printed, "data.train")[1] == "sample"
    assert setting(printed, "data.val") == {"a": "sample", "b": "b.jsonl"}
    Path("printed.yaml").write_text(printed)
    assert printed_config("fit", "--config=printed.yaml") == printed


def test_init_args_may_be_typed_or_left_out(printed_config):
    short = printed_config("fit", "--config=orpo", "--model.objective.lambda_", "0.2", "--data.limit=3")
    full = printed_config(
        *("fit", "--config=orpo", "--model.init_args.objective.init_args.lambda_", "0.2", "--data.init_args.limit=3")
    )
    assert short == full
    assert setting(short, "model.objective.lambda_") == 0.2


def test_a_block_is_read_from_a_file_of_its_own(printed_config):
    Path("policy.yaml").write_text("dtype: bfloat16\nlora: {r: 4}\n")
    printed = printed_config("fit", "--model.policy=policy.yaml", "--model.policy.lora.alpha=2")
    assert setting(printed, "model.policy.dtype") == "bfloat16"
    assert setting(printed, "model.policy.lora.r") == 4
    assert setting(printed, "model.policy.lora.alpha") == 2.0
    assert setting(printed, "model.policy.name_or_path") == "tiny"


REFERRING = """
model:
  objective: {class_path: DPO, init_args: {beta: "${model.optimizer.lr}"}}
  optimizer: {lr: 0.5}
data:
  limit: ${data.global_batch_size}
  seed: ${seed_everything}
  max_length: ${oc.env:LONGEST,99}
trainer:
  default_root_dir: runs/${model.policy.name_or_path}-${model.objective.beta}
"""


@pytest.mark.parametrize("verb", ["fit", "validate", "data"])
def test_a_reference_follows_whatever_sets_its_setting_later(printed_config, monkeypatch, verb):
    Path("refer.yaml").write_text(REFERRING)
    Path("later.yaml").write_text("data: {global_batch_size: 16}\n")
    printed = printed_config(verb, "--config=refer.yaml")
    assert setting(printed, "model.objective.beta") == 0.5
    assert setting(printed, "data.limit") == 8
    monkeypatch.setenv("LONGEST", "77")
    printed = printed_config(
        *(verb, "--config=refer.yaml", "--config=later.yaml", "--model.optimizer.lr=0.25", "--seed_everything=7"),
        "--model.policy.name_or_path=smollm2",
    )
    assert setting(printed, "model.objective.beta") == 0.25
    assert setting(printed, "data.limit") == 16
    assert setting(printed, "data.seed") == 7
    assert setting(printed, "data.max_length") == 77
    assert setting(printed, "trainer.default_root_dir") == "runs/smollm2-0.25"


def test_a_reference_may_be_typed(printed_config):
    assert setting(printed_config("fit", "--data.limit=${data.global_batch_size}"), "data.limit") == 8


def test_a_text_may_refer_to_settings_where_it_is_typed(printed_config):
    options = ["--trainer.default_root_dir", "runs/${model.optimizer.lr}-${model.policy.name_or_path}"]
    printed = printed_config("fit", *options, "--model.optimizer.lr=0.5", "--config=orpo")
    assert setting(printed, "trainer.default_root_dir") == "runs/0.5-tiny"
    printed = printed_config(
        "fit", "--model.policy.revision=${data.train}", "--model.optimizer.lr=${data.limit}", "--data.limit=3"
    )
    assert setting(printed, "model.policy.revision") == "sample"
    assert setting(printed, "model.optimizer.lr") == 3


def test_a_typed_reference_to_nothing_is_said_as_it_is_typed(refusal):
    assert refusal("fit", "--data.limit=${data.lmit}") == "--data.limit: ${data.lmit} refers to no setting"
    assert "${setting:" not in refusal("fit", "--model.layout=${data.overlong}")


def test_a_layer_adds_callbacks_to_those_that_are_there(printed_config):
    early = "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val/pref/accuracies}}"
    Path("base.yaml").write_text(f"trainer:\n  callbacks:\n  - {early}\n")
    Path("layer.yaml").write_text("trainer:\n  callbacks+: LearningRateMonitor\n")
    Path("list.yaml").write_text(
        "trainer:\n  callbacks+:\n  - class_path: DeviceStatsMonitor\n    init_args: {cpu_stats: true}\n"
    )
    printed = printed_config(
        *("fit", "--config=base.yaml", "--config=layer.yaml", "--config=list.yaml"),
        *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"),
    )
    callbacks = setting(printed, "trainer.callbacks")
    assert [each["class_path"].rpartition(".")[2] for each in callbacks] == [
        *("EarlyStopping", "LearningRateMonitor", "DeviceStatsMonitor", "ModelCheckpoint"),
    ]
    assert callbacks[0]["init_args"]["monitor"] == "val/pref/accuracies"
    assert callbacks[3]["init_args"]["monitor"] == "val/loss"


@pytest.mark.parametrize("verb", ["fit", "validate", "data"])
@pytest.mark.parametrize("files", [["--config", "orpo"], ["--config=orpo"], ["-c", "orpo"]])
def test_options_win_over_files_that_are_named_after_them(printed_config, verb, files):
    before = ["--model.objective", "DPO", "--model.objective.beta=0.3", "--model.optimizer.lr", "0.5"]
    printed = printed_config(verb, *before, *files, "--data.limit=3")
    assert printed == printed_config(verb, *files, *before, "--data.limit=3")
    assert setting(printed, "model.objective.beta") == 0.3
    assert setting(printed, "model.optimizer.lr") == 0.5


def test_of_files_the_later_one_wins_wherever_they_stand(printed_config):
    Path("a.yaml").write_text("data: {limit: 1, seed: 1}\n")
    Path("b.yaml").write_text("data: {limit: 2}\n")
    printed = printed_config("fit", "--config", "a.yaml", "--data.max_length=99", "--config=b.yaml")
    assert setting(printed, "data.limit") == 2
    assert setting(printed, "data.seed") == 1
