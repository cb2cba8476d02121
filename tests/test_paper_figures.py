"""The account of the paper's picture, on made-up runs, and the whole command on a tiny model."""

import subprocess
import sys
from dataclasses import replace

import paper_figures
import pytest
from comparison_runs import make_run, pairs_of
from paper_figures import OBJECTIVES, SEEN, SETS, UNSEEN, claims, draw, page

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.summary.intervals import Interval
from orpo_lightning.summary.record import RunRecord

MARGINS = {"sft": 0.1, "orpo-0.1": 0.2, "orpo-0.5": 0.4, "orpo-1.0": 0.8, "ratio-1.0": 3.0}
"""Of the seen pairs after training; that of the unseen ones stays, and both have 0.1 before."""


@pytest.fixture
def runs(tmp_path):
    for name, margin in MARGINS.items():
        pairs = [
            pair
            for of_set in SETS
            for step, mean in ((0, 0.1), (4, margin if of_set == SEEN else 0.1))
            for pair in pairs_of([mean - 0.01, mean + 0.01] * 8, step, of_set)
        ]
        measures = {f"val/{of_set}/{name}": 1.0 for of_set in SETS for name in ("logps_mean/chosen", "pref/margins")}
        measures |= {f"val/{of_set}/logps_mean/rejected": 0.0 for of_set in SETS}
        objective, strength = OBJECTIVES[name][0], float(name.partition("-")[2] or 0)
        record = RunRecord("complete", objective=objective, model="tiny", steps=4, total_steps=4)
        if strength:
            record = replace(record, arguments={"lambda_": strength}, strength_name="lambda_")
        make_run(
            tmp_path / name,
            record=record,
            configuration={
                "seed_everything": 0,
                "data": {"init_args": {"global_batch_size": 8, "max_length": 192}},
                "model": {"init_args": {"optimizer": {"lr": 1e-4}}},
            },
            pairs=sorted(pairs, key=lambda pair: pair.step),
            metrics={0: measures, 4: measures | {"work/total_pairs": 32.0, "time/total_s": 90.0}},
            report={"train": {"kept": 16}},
        )
    return {run.name: run for run in read_runs([str(tmp_path / name) for name in OBJECTIVES])}


def test_a_claim_has_come_out_where_its_interval_is_on_the_side_of_the_paper(runs):
    found = {each.measured: each for each in claims(runs)}
    widens = found["margin, ORPO 0.5 less 0.1"]
    assert widens.differences[SEEN].value == pytest.approx(0.2)
    assert widens.verdict(SEEN) == "as in the paper"
    assert widens.verdict(UNSEEN) == "no clear difference"
    # margins widen by rejected answers that fall: those of the ratio of probabilities by the difference of the margins
    further = found["rejected, ratio of probabilities less odds, lambda 1.0"]
    assert further.differences[SEEN].value == pytest.approx(-2.2)
    assert further.verdict(SEEN) == "as in the paper"


def test_what_comes_out_otherwise_is_said(runs):
    claim = next(claims(runs))
    assert claim.is_above
    other = replace(claim, differences={SEEN: Interval(-1.0, -1.5, -0.5), UNSEEN: Interval(1.0, -0.5, 2.5)})
    assert other.verdict(SEEN) == "the other way round"
    assert other.verdict(UNSEEN) == "no clear difference"


def test_the_page_has_a_row_for_each_claim_and_each_run(runs):
    text = page(runs, "made-up pairs", ["--config=x"])
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| figure", "| run"))]
    assert len(rows) == len(list(claims(runs))) + len(runs)
    assert "| orpo-1.0 | 32 | 0 | 1.5 | 1.000 | 1.000 | 1.000 | 1.000 |" in rows
    assert "32 steps" not in text
    assert "taken 2.0 times" in text
    assert "further options: `--config=x`" in text


@pytest.mark.slow
def test_the_picture_is_the_same_each_time(runs, tmp_path):
    for name in ("one", "two"):
        draw(runs, tmp_path / name)
    for kind in ("png", "pdf"):
        one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
        assert one
        assert bool(one == two)  # not the two of them, which a message would hold whole


@pytest.mark.slow
def test_the_command_trains_draws_and_tells_and_then_only_draws_and_tells(tmp_path):
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "out", "page")]
    command = [sys.executable, paper_figures.__file__, "--data-folder=/nowhere", *places]
    command += ["--config=model/tiny", "--trainer.max_steps=8", "--summary.enabled=false"]
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    trained = [text.count("orpo-lightning fit") for text in printed]
    assert trained == [len(OBJECTIVES), 0]
    text = (tmp_path / "page").read_text()
    assert text in printed[0]
    assert "on the embedded sample" in text
    assert (tmp_path / "out.png").exists()
    assert (tmp_path / "out.pdf").exists()
