"""Every shipped configuration: parsed by the real command alone and as its comments say, and run where it can be."""

import csv
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from helpers import one_in, slow_but

from orpo_lightning.summary.record import read_record

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
TRAINED = [
    pytest.param(path, marks=() if path.stem == "orpo" else pytest.mark.slow, id=path.stem)
    for path in sorted(CONFIGS.glob("*.yaml"))
    if path.stem != "quickstart"
]
MODELS = [path.stem for path in sorted((CONFIGS / "model").glob("*.yaml"))]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
KEYS = {
    *("seed_everything", "trainer.max_epochs", "trainer.accumulate_grad_batches", "trainer.precision"),
    *("model.objective", "model.reference", "model.layout", "model.optimizer", "model.schedule"),
    *(f"model.policy.{name}" for name in ("name_or_path", "revision", "dtype", "attn_implementation")),
    *(
        f"model.policy.{name}"
        for name in ("attention_kernel", "head_kernel", "gradient_checkpointing", "compile_layers", "lora")
    ),
    *(f"data.{name}" for name in ("train", "val", "format", "columns", "filters", "global_batch_size", "max_length")),
    *(f"data.{name}" for name in ("max_prompt_length", "overlong", "max_tokens_per_batch", "limit", "num_workers")),
    "data.seed",
}


def name_of(path):
    return str(path.relative_to(CONFIGS).with_suffix(""))


def path_of(name):
    return str(CONFIGS / f"{name}.yaml")


def commands_in(path):
    """The commands of the comments, each in one line."""
    text = re.sub(r"\\\n# *", "", path.read_text())
    return re.findall(r"^# +(orpo-lightning .+)$", text, flags=re.MULTILINE)


def layered(*names):
    return [option for name in names for option in ("--config", path_of(name))]


def arguments_of(command):
    """What follows the program; the names of configurations as paths."""
    words = shlex.split(command)[1:]
    return [path_of(word) if before == "--config" else word for before, word in itertools.pairwise(["", *words])]


COMMANDS = list(dict.fromkeys(command for path in FILES for command in commands_in(path)))


def read(path):
    return yaml.safe_load(Path(path).read_text())


def leaves(values, prefix=""):
    """Every value by its dotted key, as users write them: without class_path's init_args."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list) and value:
            yield from leaves(value, prefix if key == "init_args" else f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def printed(orpo_lightning, capsys):
    def parse(*arguments):
        with pytest.raises(SystemExit) as end:
            orpo_lightning(*arguments, "--print_config")
        out, err = capsys.readouterr()
        assert not end.value.code, err
        return yaml.safe_load(out)

    return parse


def test_the_configurations_are_those_that_are_promised():
    assert {name_of(path) for path in FILES} == {
        *("orpo", "dpo", "ipo", "sft", "simpo", "kto", "quickstart"),
        *(f"model/{name}" for name in ("tiny", "smollm2", "opt-125m", "opt-350m", "opt-1.3b", "phi-2", "lora")),
        *("model/llama-2-7b", "model/mistral-7b", "data/sample", "data/hh_rlhf", "data/ultrafeedback"),
        *("trainer/cpu", "trainer/gpu_bf16", "trainer/wandb", "trainer/ddp", "trainer/fsdp2", "trainer/fsdp"),
        "trainer/multi_node",
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_is_parsed_and_each_of_its_values_counts(printed, path):
    found = dict(leaves(printed("fit", "--config", path)))
    for key, value in leaves(read(path)):
        if key.endswith("objective.class_path"):
            value = f"orpo_lightning.{value}"
        assert found[key] == value, key
    for key in KEYS:
        assert any(name == key or name.startswith(f"{key}.") for name in found), key


@pytest.mark.parametrize("path", one_in(4, FILES), ids=name_of)
def test_a_misspelt_key_is_refused_by_name(orpo_lightning, capsys, tmp_path, path):
    lines = path.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if re.match(r" +\w+:", line))
    lines[last] = lines[last].replace(":", "x:", 1)
    (tmp_path / "wrong.yaml").write_text("\n".join(lines))
    with pytest.raises(SystemExit) as end:
        orpo_lightning("fit", "--config", tmp_path / "wrong.yaml", "--print_config")
    assert end.value.code
    assert re.search(rf"\b{lines[last].split(':')[0].strip()}\b", capsys.readouterr().err)


def test_every_configuration_says_how_it_is_used():
    for path in FILES:
        name = name_of(path)
        assert any(f"--config {name}" in command for command in commands_in(path)), name


@pytest.mark.parametrize("command", one_in(4, COMMANDS))
def test_every_command_of_the_comments_is_understood(printed, command):
    arguments = arguments_of(command)
    found = dict(leaves(printed(*arguments)))
    expected = {}  # of two layers the later one counts, and an option over all of them
    for option, value in itertools.pairwise(arguments):
        if option == "--config":
            expected |= leaves(read(value))
        elif option == "--model.objective":
            expected = {key: each for key, each in expected.items() if not key.startswith("model.objective.")}
            expected["model.objective.class_path"] = value
        elif option.startswith("--"):
            expected[option[2:]] = type(found[option[2:]])(value)
    expected["model.objective.class_path"] = f"orpo_lightning.{expected['model.objective.class_path']}"
    assert {key: found[key] for key in expected} == expected


def test_the_run_of_the_paper_has_the_values_of_the_paper(printed):
    command = (
        "orpo-lightning fit --config orpo --config model/opt-350m --config data/hh_rlhf --config trainer/gpu_bf16 "
        "--model.objective.lambda_ 1.0"
    )
    for name in ("orpo", "model/opt-350m", "data/hh_rlhf"):
        assert command in [" ".join(each.split()) for each in commands_in(Path(path_of(name)))]
    found = dict(leaves(printed(*arguments_of(command))))
    assert {
        "model.objective.class_path": "orpo_lightning.ORPO",
        "model.objective.lambda_": 1.0,
        "model.policy.name_or_path": "facebook/opt-350m",
        "model.policy.dtype": "float32",
        "model.optimizer.lr": 8e-6,
        "model.schedule.name": "cosine",
        "data.train": "hh-rlhf",
        "data.max_length": 1024,
        "trainer.max_epochs": 10,
        "trainer.precision": "bf16-mixed",
    }.items() <= found.items()


@pytest.mark.parametrize(
    ("model", "lambda_"), [("opt-350m", 1.0), ("phi-2", 0.25), ("llama-2-7b", 0.2), ("mistral-7b", 0.1)]
)
def test_the_first_command_of_a_model_has_the_strength_of_the_paper(printed, model, lambda_):
    command, *_ = commands_in(Path(path_of(f"model/{model}")))
    assert dict(leaves(printed(*arguments_of(command))))["model.objective.lambda_"] == lambda_


@pytest.mark.parametrize("model", slow_but(["lora", "phi-2"], MODELS))
def test_a_model_layer_leaves_the_objective_alone(printed, model):
    arguments = {}
    for name in ("dpo", "simpo"):
        bare = printed("fit", *layered(name))["model"]["init_args"]["objective"]
        assert printed("fit", *layered(name, f"model/{model}"))["model"]["init_args"]["objective"] == bare
        arguments[name] = bare["init_args"]
    assert arguments["dpo"] != arguments["simpo"]


def test_a_layer_adds_a_callback_to_those_of_a_configuration(printed, tmp_path):
    layer = tmp_path / "more.yaml"
    layer.write_text("trainer:\n  callbacks+:\n    - class_path: lightning.pytorch.callbacks.LearningRateMonitor\n")
    added = printed("fit", "--config", path_of("dpo"), "--config", layer)["trainer"]["callbacks"]
    assert [each["class_path"].rpartition(".")[2] for each in added] == ["EarlyStopping", "LearningRateMonitor"]
    assert printed("fit", "--config", path_of("dpo"), "--trainer.callbacks=null")["trainer"]["callbacks"] is None


@pytest.mark.parametrize("path", TRAINED)
def test_each_runs_to_its_end_as_it_is(orpo_lightning, path):
    orpo_lightning("fit", "--config", path, *QUIET)
    folder = Path("runs") / path.stem
    rows = metrics(folder)
    assert [int(row["step"]) for row in rows] == list(range(33))  # 32 steps, and what was measured after them
    assert float(rows[-2]["train/loss"]) < float(rows[0]["train/loss"])
    assert float(rows[-1]["val/pref/margins"]) > 0
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert read_record(folder / "run.json").health == ()
    assert read(folder / "config.yaml")["trainer"]["default_root_dir"] == f"runs/{path.stem}"


@pytest.mark.slow
def test_dpo_stops_early_where_the_accuracy_does_not_rise(orpo_lightning):
    still = ["--model.optimizer.lr=0", *QUIET]
    orpo_lightning("fit", "--config", path_of("dpo"), *still)
    # the first validation, after 8 steps, and two without a better one
    assert int(metrics("runs/dpo")[-1]["step"]) == 24
    without = ["--trainer.callbacks=null", "--trainer.default_root_dir=to-its-end"]
    orpo_lightning("fit", "--config", path_of("dpo"), *still, *without)
    assert int(metrics("to-its-end")[-1]["step"]) == 32


@pytest.mark.slow
def test_dpo_goes_on_with_a_warning_where_there_are_several_validation_sets(orpo_lightning):
    sets = ["--data.val", "{first: sample, second: sample}"]
    with pytest.warns(RuntimeWarning, match="metric `val/pref/accuracies` which is not available"):
        orpo_lightning("fit", "--config", path_of("dpo"), *sets, "--trainer.max_epochs=1", *QUIET)
    assert metrics("runs/dpo")[-1]["val/second/pref/accuracies"]


@pytest.mark.parametrize("path", TRAINED)
def test_the_layers_that_need_no_hub_go_over_each(orpo_lightning, path):
    layers = layered("model/lora", "data/sample", "trainer/cpu")
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--model.policy.lora.r=2"]
    orpo_lightning("fit", "--config", path, *layers, *short, *QUIET)
    checkpoint, *_ = Path("runs").glob("*/checkpoints/*.ckpt")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert weights
    assert all(".lora_" in name for name in weights)
    saved = read(f"runs/{path.stem}/config.yaml")["model"]["init_args"]
    assert saved["policy"]["lora"]["r"] == 2
    assert saved["policy"]["lora"]["alpha"] == 32
    assert saved["objective"]["class_path"].lower() == f"orpo_lightning.{path.stem}"


def test_the_lora_layer_can_be_undone_and_takes_lists(printed):
    def lora(*options):
        return printed("fit", *layered("dpo", "model/lora"), *options)["model"]["init_args"]["policy"]["lora"]

    assert lora()["r"] == 16
    assert lora("--model.policy.lora.r=0")["r"] == 0
    assert lora("--model.policy.lora.target_modules=[q_proj, v_proj]")["target_modules"] == ["q_proj", "v_proj"]


@pytest.fixture
def hub_rows(tmp_path):
    """Rows like those of the data sets on the hub, by the name of their layer; each row has a prompt of its own."""
    questions = [(f"What is {i} and {i}?", f"It is {2 * i}.", f"It is {i}.") for i in range(1, 41)]
    texts = {
        "data/hh_rlhf": [
            {side: f"\n\nHuman: {question}\n\nAssistant: {answer}" for side, answer in (("chosen", a), ("rejected", b))}
            for question, a, b in questions
        ],
        "data/ultrafeedback": [
            {"prompt": question}
            | {
                side: [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                for side, answer in (("chosen", a), ("rejected", b))
            }
            for question, a, b in questions
        ],
    }

    def write(layer):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in texts[layer]))
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("model/opt-125m", "data/hh_rlhf"),
        ("model/opt-350m", "data/hh_rlhf"),
        ("model/opt-1.3b", "data/ultrafeedback"),
        ("model/phi-2", "data/ultrafeedback"),
        ("model/llama-2-7b", "data/ultrafeedback"),
        ("model/mistral-7b", "data/ultrafeedback"),
    ],
)
def test_a_command_for_the_hub_and_a_gpu_runs_here_with_another_model_local_rows_and_no_gpu(
    orpo_lightning, hub_rows, model, data
):
    rows = hub_rows(data)
    orpo_lightning(
        *("fit", *layered("orpo", model, data, "trainer/gpu_bf16")),
        *("--model.policy.name_or_path=tiny", f"--data.train={rows}", f"--data.val={rows}"),
        *("--trainer.accelerator=cpu", "--trainer.max_epochs=1", *QUIET),
    )
    found = metrics("runs/orpo")
    # 40 pairs, 16 a step, and what was measured after them
    assert [row["step"] for row in found] == ["0", "1", "2", "3"]
    assert found[-1]["val/pref/accuracies"]


@pytest.mark.slow
def test_an_adapter_of_a_bf16_model_learns_as_the_comments_of_the_large_models_say(orpo_lightning):
    orpo_lightning(
        *("fit", *layered("orpo", "model/phi-2", "model/lora", "data/sample", "trainer/gpu_bf16")),
        *("--model.policy.name_or_path=tiny", "--model.policy.dtype=bfloat16", "--model.optimizer.lr=1e-2"),
        *("--model.schedule.warmup=1", "--trainer.accelerator=cpu", "--trainer.max_epochs=1", *QUIET),
    )
    rows = metrics("runs/orpo")
    assert float(rows[-2]["train/loss"]) < float(rows[0]["train/loss"])
    checkpoint, *_ = Path("runs/orpo/checkpoints").glob("*.ckpt")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.slow
def test_the_smollm2_layer_runs(orpo_lightning):
    layers = [path_of(name) for name in ("orpo", "model/smollm2", "data/sample", "trainer/cpu")]
    orpo_lightning(
        "fit", *[option for layer in layers for option in ("--config", layer)], "--trainer.max_steps=2", *QUIET
    )
    assert len(metrics("runs/orpo")) == 3
