"""The table of objectives, for people."""

from __future__ import annotations

from orpo_lightning.objectives import get_objective, list_objectives


def print_objectives() -> None:
    """Print the objectives: arguments with their defaults, formula, source."""
    for name in list_objectives():
        cls = get_objective(name)
        objective = cls()
        reference = "needs a reference model" if objective.needs_reference else "no reference model"
        print(f"{objective}\n    {cls.formula}\n    {cls.citation}; {reference}\n")
    print(
        "x prompt, y_w chosen, y_l rejected response; S summed and A mean log-probability;\n"
        "h log-ratio to the reference, z its mean over mismatched responses\n"
        "Use one by its name: --model.objective DPO --model.objective.beta 0.2"
    )
