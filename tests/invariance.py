"""What the tests of invariance compare: runs of all objectives on awkward rows, step by step."""

import dataclasses
import json

import pytest
import torch
from helpers import Run

from orpo_lightning import CPO, DPO, IPO, ORPO, SFT, HingeDPO, ProbabilityRatio, RobustDPO, SimPO
from orpo_lightning.testing import make_rows

OBJECTIVES = {
    "sft": lambda: SFT(),
    "sft-response-sequences": lambda: SFT(nll_over="response", nll_mean="sequences"),
    "orpo": lambda: ORPO(lambda_=0.5),
    "orpo-sequences": lambda: ORPO(lambda_=0.5, nll_mean="sequences"),
    "orpo-response": lambda: ORPO(lambda_=0.5, nll_over="response"),
    "dpo": lambda: DPO(beta=0.3, label_smoothing=0.1),
    "dpo-length-normalized": lambda: DPO(beta=5.0, length_normalized=True),
    "dpo-robust": lambda: RobustDPO(beta=0.3, label_smoothing=0.1),
    "dpo-hinge": lambda: HingeDPO(beta=0.3),
    "ipo": lambda: IPO(),
    "simpo": lambda: SimPO(),
    "probability_ratio": lambda: ProbabilityRatio(),
    "cpo": lambda: CPO(nll_mean="sequences"),
}
"""Every objective, with the token-mean and the sequence-mean likelihood."""


def rows_of(case):
    if case == "uneven":
        # 22 pairs do not divide by 8; one is longer than all the others together
        rows = make_rows(21, longest=4)
        longest = dataclasses.replace(rows[0], row_id="made:long", prompt=tuple(range(3, 93)) * 2)
        assert longest.num_tokens > sum(row.num_tokens for row in rows)
        return [*rows, longest]
    return [dataclasses.replace(row, weight=0.0 if i == 3 else 1.0 + i / 3) for i, row in enumerate(make_rows(10))]


def assert_same(found: Run, expected: Run, tolerance: float) -> None:
    assert [step for step, _ in found.history] == [step for step, _ in expected.history]
    for (step, values), (_, wanted) in zip(found.history, expected.history, strict=True):
        assert set(values) == set(wanted)
        for name in values:
            assert values[name] == pytest.approx(wanted[name], rel=tolerance, abs=tolerance), f"{name} of step {step}"
    for gradient, wanted in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=tolerance * wanted.abs().max().item())
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=tolerance * expected.weights.abs().max())


def load(folder, name) -> Run:
    saved = torch.load(folder / f"{name}.pt")
    return Run(json.loads(saved["history"]), saved["gradients"], saved["weights"], None, None)
