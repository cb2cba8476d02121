"""What a user needs to test an objective of their own: the conformance test, and rows to train a few steps on.

from orpo_lightning.testing import check_objective

def test_my_objective():
    check_objective(SquaredMargin)
"""

from orpo_lightning.testing.conformance import check_objective
from orpo_lightning.testing.samples import make_pairs, make_rows, make_unpaired, make_unpaired_rows

__all__ = ["check_objective", "make_pairs", "make_rows", "make_unpaired", "make_unpaired_rows"]
