"""docs/metrics.md names what is logged, nothing else, and is right about where a run starts."""

import csv
import math
from pathlib import Path

import pytest
from helpers import slow, slow_but
from pages import page_named

from orpo_lightning import list_objectives

pytestmark = pytest.mark.usefixtures("short_sample")

PAGE = page_named("metrics")
OBJECTIVES = ("CPO", "DPO", "HingeDPO", "IPO", "KTO", "ORPO", "ProbabilityRatio", "RobustDPO", "SFT", "SimPO")
FIRST = ("DPO", "KTO", "ORPO", "SFT")
"""Those that the fast suite trains too."""
IN_BOTH = "key | unit | what it is | good | logged by"
SHORT = [
    *("--trainer.max_steps=2", "--trainer.limit_val_batches=2", "--trainer.val_check_interval=1"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.enable_checkpointing=false", "--export.enabled=false"),
]


def keys_on_the_page(objective):
    keys = {key.strip("`") for cells in PAGE.rows("key | unit | what it is | good") for key in cells[0].split(", ")}
    for key, *_, logged_by in PAGE.rows(IN_BOTH):
        who, _, exception = logged_by.partition("; ")
        names, _, left_out = who.partition(" but ")
        logging = set(OBJECTIVES if names == "all" else names.split(", ")) - set(filter(None, left_out.split(", ")))
        assert logging <= set(OBJECTIVES), logged_by
        assert exception in ("", "SFT: val only"), logged_by
        if objective in logging:
            keys.add(f"val/{key.strip('`')}")
            if not (objective == "SFT" and exception):
                keys.add(f"train/{key.strip('`')}")
    return keys


@pytest.fixture(scope="module")
def runs():
    """What was logged, by what was typed."""
    return {}


@pytest.fixture
def logged(orpo_lightning, runs):
    """The rows of metrics.csv of two steps of an objective."""

    def run(*typed):
        if typed not in runs:
            runs[typed] = fit(*typed)
        return runs[typed]

    def fit(objective, *options):
        orpo_lightning("fit", "--model.objective", objective, "--trainer.default_root_dir=run", *SHORT, *options)
        with Path("run/metrics.csv").open() as file:
            return list(csv.DictReader(file))

    return run


def test_these_are_all_objectives(only_built_in_objectives):
    assert list_objectives() == OBJECTIVES


@pytest.mark.parametrize("objective", slow_but(FIRST, OBJECTIVES))
def test_the_page_names_what_an_objective_logs_and_nothing_else(logged, objective):
    rows = logged(objective)
    found = {key for row in rows for key, value in row.items() if value} - {"step", "epoch"}
    assert found == keys_on_the_page(objective)


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        ("DPO", math.log(2)),
        slow("RobustDPO", math.log(2)),
        slow("IPO", 25.0),
        slow("HingeDPO", 1.0),
        ("KTO", 0.5),
    ],
)
def test_an_objective_with_a_reference_starts_where_the_page_says(logged, objective, loss):
    first = logged(objective)[0]
    assert float(first["train/loss"]) == pytest.approx(loss, rel=1e-6)
    assert float(first["train/rewards/chosen"]) == float(first["train/rewards/margins"]) == 0
    if objective == "KTO":
        assert float(first["train/kl"]) == 0
    else:
        assert float(first["train/rewards/accuracies"]) == 0.5


@pytest.mark.parametrize(
    ("objective", "measure"), [("ORPO", ""), slow("ProbabilityRatio", ""), slow("SimPO", ""), slow("CPO", "_sum")]
)
def test_without_a_reference_the_accuracy_of_rewards_is_a_shared_one(logged, objective, measure):
    for row in logged(objective):
        for split in ("train", "val"):
            if row[f"{split}/loss"]:
                assert row[f"{split}/rewards/accuracies"] == row[f"{split}/pref/accuracies{measure}"]


def test_kto_on_data_without_pairs_has_no_shared_comparisons(logged, tmp_path):
    rows = [f'{{"prompt": "{i}?", "completion": "{i}.", "label": {str(i % 2 == 0).lower()}}}\n' for i in range(16)]
    (tmp_path / "single.jsonl").write_text("".join(rows))
    found = set().union(*logged("KTO", "--data.train=single.jsonl", "--data.val=single.jsonl"))
    assert found - {"step", "epoch"} == {key for key in keys_on_the_page("KTO") if "/pref/" not in key}


@pytest.mark.slow
def test_in_bf16_packed_and_padded_agree_to_three_digits_in_sums(logged):
    packed, padded = (
        logged("ORPO", f"--model.layout={layout}", "--trainer.precision=bf16-true", "--trainer.max_steps=1")[0]
        for layout in ("packed", "padded")
    )
    for key in ("train/loss", "train/logps/chosen", "train/nll_response", "train/grad_norm"):
        assert float(packed[key]) == pytest.approx(float(padded[key]), rel=1e-3)
