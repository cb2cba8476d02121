"""The objectives: each maps log-probabilities of preference pairs to a loss per pair."""

from orpo_lightning.objectives.base import Objective, get_objective, list_objectives
from orpo_lightning.objectives.cpo import CPO
from orpo_lightning.objectives.dpo import DPO, HingeDPO, RobustDPO
from orpo_lightning.objectives.ipo import IPO
from orpo_lightning.objectives.kto import KTO
from orpo_lightning.objectives.orpo import ORPO
from orpo_lightning.objectives.probability_ratio import ProbabilityRatio
from orpo_lightning.objectives.sft import SFT
from orpo_lightning.objectives.simpo import SimPO

__all__ = [
    "CPO",
    "DPO",
    "IPO",
    "KTO",
    "ORPO",
    "SFT",
    "HingeDPO",
    "Objective",
    "ProbabilityRatio",
    "RobustDPO",
    "SimPO",
    "get_objective",
    "list_objectives",
]
