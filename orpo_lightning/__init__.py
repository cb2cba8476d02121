"""Preference optimization of language models on PyTorch Lightning. The public names, loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orpo_lightning.data.columns import RowError as RowError
    from orpo_lightning.data.datamodule import PreferenceDataModule as PreferenceDataModule
    from orpo_lightning.data.filters import Filter as Filter
    from orpo_lightning.data.row_format import Format as Format
    from orpo_lightning.data.sources import SourceConfig as SourceConfig
    from orpo_lightning.models.adapters import LoraConfig as LoraConfig
    from orpo_lightning.models.loading import PolicyConfig as PolicyConfig, ReferenceConfig as ReferenceConfig
    from orpo_lightning.modules.finite import NonFiniteError as NonFiniteError
    from orpo_lightning.modules.optimization import OptimizerConfig as OptimizerConfig, ScheduleConfig as ScheduleConfig
    from orpo_lightning.modules.preference import PreferenceModule as PreferenceModule
    from orpo_lightning.objectives import (
        CPO as CPO,
        DPO as DPO,
        IPO as IPO,
        KTO as KTO,
        ORPO as ORPO,
        SFT as SFT,
        HingeDPO as HingeDPO,
        Objective as Objective,
        ProbabilityRatio as ProbabilityRatio,
        RobustDPO as RobustDPO,
        SimPO as SimPO,
        get_objective as get_objective,
        list_objectives as list_objectives,
    )
    from orpo_lightning.records import (
        Message as Message,
        ObjectiveOutput as ObjectiveOutput,
        PairLogps as PairLogps,
        TextRow as TextRow,
    )


_HOMES = {
    "orpo_lightning.data.columns": ("RowError",),
    "orpo_lightning.data.datamodule": ("PreferenceDataModule",),
    "orpo_lightning.data.filters": ("Filter",),
    "orpo_lightning.data.row_format": ("Format",),
    "orpo_lightning.data.sources": ("SourceConfig",),
    "orpo_lightning.models.adapters": ("LoraConfig",),
    "orpo_lightning.models.loading": ("PolicyConfig", "ReferenceConfig"),
    "orpo_lightning.modules.optimization": ("OptimizerConfig", "ScheduleConfig"),
    "orpo_lightning.modules.finite": ("NonFiniteError",),
    "orpo_lightning.modules.preference": ("PreferenceModule",),
    "orpo_lightning.objectives": (
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
    ),
    "orpo_lightning.records": ("Message", "ObjectiveOutput", "PairLogps", "TextRow"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
