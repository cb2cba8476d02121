"""What the account of a split gives reason to change, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_lightning.data.lengths import LENGTH_REASONS, LengthLimits
from orpo_lightning.data.report import SplitReport

MANY_TOO_LONG = 0.2
"""Share of rows dropped for their length from which to say how to keep them."""
MANY_WITHOUT_END = 0.05
"""Share of training responses that do not end from which to say so: the others teach a model to end."""


def advice_on(name: str, report: SplitReport, limits: LengthLimits) -> Iterator[str]:
    """The sentences on the account of a source.

    Args:
        name: what its part of the data is called: ``train`` or ``validation``, or that with its own name after it.
        report: the account.
        limits: the window that its rows had to fit into.

    Example:
        >>> report = SplitReport("validation", "a.jsonl", kept=8, shared_prompts=2, first_shared="a.jsonl:3")
        >>> next(advice_on("validation", report, LengthLimits())).split(": ")[0]
        '2 of the 8 rows of validation (25%, first a.jsonl:3) have a prompt that is trained on'
    """
    too_long = sum(report.dropped[reason] for reason in LENGTH_REASONS)
    if too_long > MANY_TOO_LONG * report.read:
        cut = ", or cut rows: data.overlong = truncate_prompt or truncate_response"
        yield (
            f"{too_long / report.read:.0%} of the rows of {name} are too long and dropped: raise data.max_length "
            f"({limits.max_length}) or data.max_prompt_length ({limits.max_prompt_length})"
            f"{cut if limits.overlong == 'drop' else ''}"
        )
    trains = name.split("/")[0] == "train"
    if trains and report.without_end > MANY_WITHOUT_END * report.responses:
        yield (
            f"{report.without_end:,} of the {report.responses:,} responses of {name} "
            f"({report.without_end / report.responses:.0%}, first {report.first_without_end}) are cut and lack the "
            "token that ends one, so that the model does not learn from them where to stop: raise data.max_length "
            f"({limits.max_length}), or drop such rows: data.overlong = drop"
        )
    if not trains and report.shared_prompts:
        yield (
            f"{report.shared_prompts:,} of the {report.kept:,} rows of {name} "
            f"({report.shared_prompts / report.kept:.0%}, first {report.first_shared}) have a prompt that is trained "
            "on: it measures what was trained on. Drop the training rows with these prompts: data.filters = "
            "[SharedPrompts]"
        )
