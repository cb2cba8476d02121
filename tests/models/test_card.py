"""The model card: what the hub reads, and what a person wants to know."""

import importlib.metadata

import pytest
from huggingface_hub import ModelCard as HubCard

from orpo_lightning.models.card import ModelCard, steps_of, versions

CARD = ModelCard(
    objective="DPO(beta=0.1)",
    base_model="facebook/opt-125m",
    steps=1200,
    version="0.0.9",
    data_report="train: a.jsonl (text): 3 rows read",
    config="model:\n  layout: auto\n",
    metrics={"val/pref/accuracies": 0.75, "train/loss": 0.6931471805},
)


def read(tmp_path, card=CARD):
    card.write(tmp_path)
    return HubCard.load(tmp_path / "README.md")


def test_the_hub_reads_library_task_base_model_and_tags(tmp_path):
    data = read(tmp_path).data
    assert (data.library_name, data.pipeline_tag, data.base_model) == (
        "transformers",
        "text-generation",
        "facebook/opt-125m",
    )
    assert data.tags == ["orpo-lightning", "preference-optimization", "dpo"]


def test_the_steps_are_read_back_from_a_card(tmp_path):
    assert steps_of(tmp_path) is None
    CARD.write(tmp_path)
    assert steps_of(tmp_path) == 1200
    for text in ("# mine\n", "---\nlicense: mit\n---\n", "---\noptimizer_steps: many\n---\n", "---\n[\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert steps_of(tmp_path) is None


@pytest.mark.parametrize(
    ("base", "shown"),
    [("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("tiny", None), ("runs/sft", None), ("/models/mine/x", None)],
)
def test_only_a_model_of_the_hub_is_its_base_model_there(tmp_path, monkeypatch, base, shown):
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = read(tmp_path, ModelCard("DPO(beta=0.1)", base, 1, "0.1.0"))
    assert card.data.base_model == shown
    assert f"base model: `{base}`" in card.text


def test_objective_data_config_measures_and_versions_are_there(tmp_path):
    text = read(tmp_path).text
    assert "`DPO(beta=0.1)`" in text
    assert "trained with orpo_lightning 0.0.9 for 1,200 optimizer steps" in text
    assert "train: a.jsonl (text): 3 rows read" in text
    assert "```yaml\nmodel:\n  layout: auto\n```" in text
    assert "| train/loss | 0.693147 |\n| val/pref/accuracies | 0.75 |" in text
    for name in ("orpo-lightning", "torch", "transformers", "lightning"):
        assert f"- {name} {importlib.metadata.version(name)}" in text
        assert name in versions()


def test_a_card_takes_config_and_measures_from_the_folder_of_the_run(tmp_path):
    about = {"objective": "ORPO()", "base_model": "tiny", "steps": 2, "version": "0.1.0"}
    about |= {"reports": {"train": "train: 3 rows", "validation": "validation: 2 rows"}, "metrics": {"loss": 9.0}}
    card = ModelCard.of_run(tmp_path, **about)
    assert (card.config, card.metrics) == (None, {"loss": 9.0})
    assert card.data_report == "train: 3 rows\nvalidation: 2 rows"
    (tmp_path / "config.yaml").write_text("model: 1\ndata: 2")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,3.0\n1,2.0\n2,1.0\n")
    card = ModelCard.of_run(tmp_path, **about)
    assert (card.config, card.metrics) == ("model: 1\ndata: 2", {"train/loss": 2.0})


def test_measures_of_the_training_are_told_to_be_of_one_batch(tmp_path):
    about = "## Measures at the end\n\nThose of `train/` are of the batch of the last logged step alone.\n\n| measure"
    assert about in read(tmp_path).text
    validated = ModelCard("DPO(beta=0.1)", "tiny", 1, "0.1.0", metrics={"val/loss": 2.0})
    assert "## Measures at the end\n\n| measure" in read(tmp_path, validated).text


def test_what_is_not_known_is_left_out(tmp_path):
    text = read(tmp_path, ModelCard("DPO(beta=0.1)", "tiny", 1, "0.1.0")).text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# DPO on tiny",
        "## Use",
        "## Versions that wrote this folder",
    ]


def test_an_adapter_is_of_the_library_peft(tmp_path):
    card = read(tmp_path, ModelCard("DPO(beta=0.1)", "tiny", 1, "0.1.0", adapter=True))
    assert card.data.library_name == "peft"
    assert "model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)" in card.text
    assert "AutoModelForCausalLM" not in card.text


@pytest.mark.parametrize(("base", "adapter", "said"), [("smollm2", True, 1), ("smollm2", False, 0), ("tiny", True, 0)])
def test_an_adapter_whose_base_has_other_weights_on_the_hub_says_so_before_it_is_used(tmp_path, base, adapter, said):
    card = read(tmp_path, ModelCard("DPO(beta=0.1)", base, 1, "0.1.0", adapter=adapter))
    before_use = card.text.partition("## Use")[0]
    sentence = (
        "trained on smollm2, the weights of HuggingFaceTB/SmolLM2-135M-Instruct rounded to 4 bits, and with those"
    )
    assert before_use.count(sentence) == card.text.count("--merge-adapter") == said
