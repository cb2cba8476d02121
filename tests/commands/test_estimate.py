"""The verb ``estimate``: what a run needs on each device, from its configuration and its data, with nothing loaded."""

import json
import re
import shlex

import pytest
from pages import page_named
from transformers import LlamaConfig

from orpo_lightning import OptimizerConfig
from orpo_lightning.commands import estimate
from orpo_lightning.device_memory import Memory
from orpo_lightning.memory import Copies, Shares
from orpo_lightning.models import building, loading
from orpo_lightning.models.loading import PolicyConfig, ReferenceConfig
from orpo_lightning.modules.estimate import Estimate, Setup, remedies, that_fit
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo
from orpo_lightning.testing import make_rows

UNITS = {"MiB": 2**20, "GiB": 2**30}
BATCH = pack(make_rows(8), StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0))


@pytest.fixture
def said(orpo_lightning, capsys, monkeypatch):
    """Runs the verb, and returns what it prints."""
    for module, name in ((building, "load_together"), (loading, "load_causal_lm")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("a model was loaded"))

    def run(*options):
        orpo_lightning("estimate", "--config", "orpo", *options)
        return " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture
def without_remedies(monkeypatch):
    """For tests of what is needed alone: each setting that would lower it takes as long to estimate."""
    monkeypatch.setattr(estimate, "remedies", lambda found: [])


@pytest.fixture
def without_tokenizer(tmp_path):
    """A folder with the settings of a model, and nothing else."""
    LlamaConfig(vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=2).save_pretrained(
        tmp_path / "m"
    )
    return "--model.policy.name_or_path=m"


def largest_of(said, name):
    number, unit = re.search(rf"\b{name} ([\d.,]+) (MiB|GiB)", said).groups()
    return float(number.replace(",", "")) * UNITS[unit]


def total_of(said):
    return largest_of(said, "all together")


def test_it_tells_what_each_device_needs_and_which_micro_batch_is_the_longest(said):
    printed = said()
    weights = 4 * 132_224  # of the tiny model, whose head is its embedding
    for name, expected in (("weights", weights), ("gradients", weights), ("optimizer", 2 * weights)):
        assert largest_of(printed, name) == pytest.approx(expected, rel=0.15), name
    parts = [largest_of(printed, name) for name in ("weights", "gradients", "optimizer", "activations", "head")]
    assert 0 < total_of(printed) < sum(parts)
    assert (
        "The longest micro-batch of the data has 1,837 tokens in 8 rows; the longest of these, sample/train:" in printed
    )
    assert "--trainer.accumulate_grad_batches 2" in printed.split("It would take less with one of")[1]


@pytest.mark.slow
@pytest.mark.usefixtures("without_remedies")
def test_processes_on_the_cpus_of_one_machine_have_a_part_of_its_memory_each(said, monkeypatch):
    monkeypatch.setattr(estimate, "memory_of", lambda device, processes: Memory(24 * 2**30 // processes, None))
    two = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")
    assert "A device here has 24.00 GiB." in said()
    assert "A device here has 12.00 GiB." in said(*two)
    assert "A device here has 12.00 GiB." in said(*two, "--trainer.num_nodes=2")


@pytest.mark.usefixtures("without_remedies")
def test_the_longest_micro_batch_is_that_of_the_plan_of_the_run(said, tmp_path):
    rows = [{"prompt": f"{i}?", "chosen": "yes " * (1 + 20 * (i == 5)), "rejected": "no"} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--data.train=rows.jsonl", "--data.val=null", "--data.global_batch_size=4")
    assert "in 1 rows; the longest of these, rows.jsonl:6" in said(*options, "--trainer.accumulate_grad_batches=2")
    assert "in 4 rows; the longest of these, rows.jsonl:6" in said(*options, "--data.shuffle=false")


@pytest.mark.slow
@pytest.mark.usefixtures("without_remedies")
def test_an_objective_that_trains_on_chosen_responses_alone_needs_less(said):
    assert total_of(said("--model.objective=SFT")) < total_of(said())


@pytest.mark.slow
@pytest.mark.usefixtures("without_remedies")
def test_a_reference_is_counted_where_the_objective_needs_one(said):
    assert "reference" not in said()
    assert "reference" in said("--model.objective=DPO")
    assert "reference" not in said("--model.objective=DPO", "--model.reference.mode=cached")


@pytest.mark.slow
@pytest.mark.usefixtures("without_remedies")
def test_several_gpus_are_estimated_where_there_is_none(said):
    options = ("--trainer.accelerator=gpu", "--trainer.devices=2", "--trainer.precision=bf16-mixed")
    copies, parts = said(*options, "--trainer.strategy=ddp"), said(*options, "--config", "trainer/fsdp2")
    assert "2 x cuda, a copy of the weights each, bf16-mixed" in copies
    assert "2 x cuda, weights shared out, bf16-mixed" in parts
    assert largest_of(parts, "weights") == pytest.approx(largest_of(copies, "weights") / 2, rel=0.2)
    assert largest_of(parts, "optimizer") < largest_of(copies, "optimizer"), "half the state, and scratch of its step"


@pytest.mark.slow
@pytest.mark.usefixtures("without_remedies")
def test_where_the_rows_cannot_be_had_the_bound_is_taken_and_said(said, without_tokenizer):
    whole = said(without_tokenizer, "--data.max_length=64", "--data.max_prompt_length=32")
    assert "The data cannot be read here (the tokenizer of 'm' cannot be loaded" in whole
    assert "none can be longer than, 1,000 tokens: 8 rows with a prompt of one token and responses up to" in whole
    bounded = said(without_tokenizer, "--data.max_tokens_per_batch=400")
    assert "none can be longer than, 400 tokens: data.max_tokens_per_batch = 400, beyond which a run" in bounded
    assert total_of(bounded) < total_of(whole)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("--config=trainer/fsdp2",), "trainer.devices = -1 is every GPU of a machine, and there is none here: say"),
        (("--trainer.precision=transformer-engine",), "trainer.precision = 'transformer-engine' cannot be estimated"),
        (
            (
                *("--model.policy.load_in_4bit=true", "--model.policy.lora.r=4", "--config=trainer/fsdp2"),
                "--trainer.devices=8",
            ),
            "model.policy.load_in_4bit = true, but trainer.strategy shares the weights out over the processes",
        ),
        (("--trainer.strategy=deepspeed_stage_2",), "trainer.strategy = deepspeed_stage_2 cannot be estimated"),
        (("--model.policy.name_or_path=./nowhere",), "no model at './nowhere'"),
    ],
)
def test_what_cannot_be_estimated_is_refused_by_name(said, options, answer):
    with pytest.raises((ValueError, OSError), match=re.escape(answer)):
        said(*options)


@pytest.mark.parametrize(
    ("devices", "kind", "expected"),
    [
        (2, "cpu", 2),
        ("auto", "cpu", 1),
        ([0, 3], "cuda", 2),
        ("0,1,2", "cuda", 3),
        ("8", "cuda", 8),
        ("auto", "mps", 1),
    ],
)
def test_devices_are_counted_as_the_trainer_counts_them(devices, kind, expected):
    assert estimate._devices(devices, kind) == expected


def test_a_strategy_tells_what_each_process_holds():
    assert estimate._strategy("auto") is estimate._strategy("ddp") is None
    assert estimate._strategy("fsdp2").shares == Shares(gathers_as_computed=True)
    assert estimate._strategy("fsdp").shares == Shares()
    assert estimate._strategy("fsdp_cpu_offload").shares == Shares(offload=True)
    by_path = estimate._strategy("orpo_lightning.strategies.FSDP2Strategy")
    assert by_path.shares == estimate._strategy("fsdp2").shares


def setup(**options):
    policy = options.pop("policy", PolicyConfig())
    return Setup(policy, options.pop("reference", None), OptimizerConfig(), len(BATCH), **options)


@pytest.mark.slow
def test_a_setting_that_would_lower_it_is_named_with_what_it_comes_to():
    found = Estimate.of(setup(reference=ReferenceConfig(), sharing=Copies(2)), BATCH)
    lower = {each.setting: each for each in remedies(found)}
    assert [*lower] == [
        "--trainer.accumulate_grad_batches 2",
        "--model.policy.gradient_checkpointing true",
        "--model.reference.mode cached",
        "--trainer.strategy fsdp2",
        "--model.policy.lora.r 16",
    ]
    assert all(each.estimate.need.total < found.need.total for each in lower.values())
    assert lower["--model.reference.mode cached"].estimate.need.reference == 0


@pytest.mark.slow
def test_what_fits_is_a_setting_alone_or_several_together():
    found = Estimate.of(setup(), BATCH)
    alone = [*that_fit(found, int(0.9 * found.need.total))]
    assert alone
    assert all(each.estimate.need.total <= 0.9 * found.need.total for each in alone)
    smallest = min(each.estimate.need.total for each in alone)
    (together,) = that_fit(found, smallest - 2**14)
    assert together.setting.startswith("--trainer.accumulate_grad_batches")
    assert together.setting.count("--") > 1
    assert [*that_fit(found, 1000)] == []


@pytest.mark.slow
def test_a_batch_that_may_not_be_split_is_not():
    assert not any("accumulate" in each.setting for each in remedies(Estimate.of(setup(splits=False), BATCH)))


A_7B = ("--config=orpo", "--config=model/llama-2-7b")
OF_A_STEP = (
    *("--model.policy.name_or_path=llama-2-7b", "--data.global_batch_size=64", "--data.max_length=1024"),
    *("--data.max_tokens_per_batch=8192", "--trainer.accelerator=gpu"),
)
IN_EIGHT = "--trainer.accumulate_grad_batches=8"
ON_ONE = ("--trainer.devices=1", IN_EIGHT)
ADAPTER = ("--config=trainer/gpu_bf16", "--config=model/lora", *ON_ONE)
PLACES = [
    ("one GPU", 0, ("--config=trainer/gpu_bf16", *ON_ONE)),
    ("the same with an adapter", 0, ADAPTER),
    ("the same with an adapter", 1, (*ADAPTER, "--model.policy.dtype=bfloat16")),
    ("the GPUs of one machine", 0, ("--config=trainer/ddp", "--trainer.devices=8", IN_EIGHT)),
    ("the same, a larger model", 0, ("--config=trainer/fsdp2", "--trainer.devices=8")),
    ("several machines", 0, ("--config=trainer/fsdp2", "--trainer.devices=8", "--trainer.num_nodes=2")),
]


@pytest.fixture
def a_7b(orpo_lightning, capsys, tmp_path):
    """Runs the verb beside the settings of a 7B."""
    LlamaConfig().save_pretrained(tmp_path / "llama-2-7b")

    def said(*words):
        orpo_lightning("estimate", *words)
        return " ".join(capsys.readouterr().out.split())

    return said


@pytest.mark.slow
def test_the_page_shows_what_the_verb_prints_of_a_7b_on_8_gpus(a_7b):
    (command,) = (block for block in page_named("scaling").blocks("sh") if block.startswith("orpo-lightning estimate"))
    printed = a_7b(*shlex.split(command.replace("\\\n", " "))[2:])
    assert printed in [" ".join(block.split()) for block in page_named("scaling").blocks("text")]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "number", "options"), PLACES)
def test_the_page_says_for_each_place_to_train_what_the_verb_prints_of_a_7b(a_7b, place, number, options):
    (row,) = (line for line in page_named("scaling").text.splitlines() if line.startswith(f"| {place} |"))
    needed = re.findall(r"([\d,]+) GiB", row.split("|")[4])
    assert len(needed) == sum(place == each for each, *_ in PLACES)
    # layers of configuration first, as on the page
    words = sorted((*A_7B, *OF_A_STEP, *options), key=lambda word: not word.startswith("--config"))
    assert int(needed[number]) == round(total_of(a_7b(*words)) / UNITS["GiB"])


@pytest.mark.slow
def test_a_bound_is_lowered_by_more_micro_batches_as_far_as_that_of_fewer_rows_is(said, without_tokenizer):
    options = (without_tokenizer, "--data.max_length=64", "--data.max_prompt_length=32")
    bound = "--data.max_tokens_per_batch=800"
    printed = said(*options, bound)
    assert "none can be longer than, 800 tokens" in printed
    told = re.search(r"--trainer.accumulate_grad_batches 2 ([\d.]+) (MiB|GiB)", printed)
    assert told, printed
    split = said(*options, bound, "--trainer.accumulate_grad_batches=2")
    assert float(told[1]) * UNITS[told[2]] == total_of(split)
