"""The main job: the four objectives of the paper on real pairs, in both formats, with a tiny and with a real model."""

import csv
import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

from orpo_lightning.__main__ import main
from orpo_lightning.data.lengths import LengthLimits
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tokenizer import load_tokenizer
from orpo_lightning.packing import pack
from orpo_lightning.records import StepInfo

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PAIRS = {"hh_rlhf": DATA / "hh_rlhf" / "test.jsonl.gz", "gpt4_pairs": DATA / "gpt4_pairs" / "test_prefs.parquet"}
OBJECTIVES = ["orpo", "dpo", "ipo", "sft"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real pairs are not at {DATA}"),
]


def fit(monkeypatch, folder, objective, data, *options):
    monkeypatch.chdir(folder)
    shared = [
        *("--config", str(ROOT / "configs" / f"{objective}.yaml")),
        *("--data.train", str(PAIRS[data]), "--data.val", str(PAIRS[data])),
        *("--trainer.default_root_dir", "run", "--trainer.enable_checkpointing=false"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    ]
    monkeypatch.setattr(sys, "argv", ["orpo-lightning", "fit", *shared, *options])
    main()
    with (folder / "run" / "metrics.csv").open() as file:
        # the last row is of the validation after the last step
        return [row for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize(
    ("objective", "data"),
    itertools.product(OBJECTIVES, PAIRS),
)
def test_a_tiny_model_learns_from_real_pairs(tmp_path, monkeypatch, objective, data):
    few = ["--data.limit=160", "--trainer.max_epochs=3", "--trainer.limit_val_batches=5"]
    rows = fit(monkeypatch, tmp_path, objective, data, *few)
    losses = [float(row["train/loss"]) for row in rows]
    assert all(map(math.isfinite, losses))
    # the same pairs in the first epoch and in the last
    epoch = len(losses) // 3
    assert sum(losses[-epoch:]) < sum(losses[:epoch])


@pytest.mark.parametrize("data", PAIRS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_smollm2_takes_steps_on_real_pairs(tmp_path, monkeypatch, objective, data):
    options = ["--model.policy.name_or_path=smollm2", "--data.global_batch_size=2", "--data.max_length=256"]
    rate = ["--model.optimizer.lr=5e-6", "--data.max_prompt_length=128"]
    rows = fit(monkeypatch, tmp_path, objective, data, *options, *rate, "--trainer.max_steps=2", "--data.val=null")
    losses = [float(row["train/loss"]) for row in rows]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    start = {"dpo": math.log(2), "ipo": 25.0}
    if objective in start:
        assert losses[0] == pytest.approx(start[objective], rel=1e-4)


@pytest.mark.parametrize("data", PAIRS)
def test_smollm2_scores_real_pairs_as_its_plain_logits_do(data):
    how = Preparation(load_tokenizer("smollm2"), LengthLimits(512, 256))
    rows, _ = how.prepare(SourceConfig(str(PAIRS[data])), "validation")
    net = load_causal_lm(PolicyConfig("smollm2")).eval()
    model = LogpModel(net, "packed")
    with torch.no_grad():
        found = model(pack(rows[:3], StepInfo(1.0, 1.0, 1.0)), prompt_logps=True)
        expected = []
        for row in rows[:3]:
            for response in row.responses:
                ids = torch.tensor([row.prompt + response.ids])
                logps = net(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
                expected.append(logps[len(row.prompt) - 1 :].sum())
    torch.testing.assert_close(found.logps, torch.stack(expected), rtol=1e-5, atol=1e-3)
